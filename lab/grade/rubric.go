package grade

// A Criterion is one row of the rubric. Without a check a person gives the
// points.
type Criterion struct {
	Name  string
	Of    float64
	Title string
	How   string
	// check gives a share of the points, 0…1, with the reason.
	check func(*subject) (share float64, why string)
}

// Rubric is how a report is graded: 70 points by the record, 30 by a reader.
var Rubric = []Criterion{
	{"record", 8, "the record is whole", "every file of every trial is there and has its digest, and the run's digest is theirs; all or nothing", recordIsWhole},
	{"conclusions", 8, "its conclusions follow from its trials", "arms are summarised and claims judged again from the trials, and percentiles read again from the histograms; all or nothing", conclusionsFollow},
	{"sheet", 4, "the experiment is the lab's", "the sheet in the record is the one that tcplab has, but for what `--set` says on the command line; all or nothing", sheetIsOurs},
	{"seed", 4, "the seed is the student's own", "any but 1, which everybody has", seedIsOwn},
	{"valid", 8, "the trials count", "the share of trials that are valid", trialsCount},
	{"load", 8, "before and after have the same load", "the share of arms that were offered what the baseline was, within 2%; arms whose lever is the load are left out", sameLoad},
	{"table", 4, "the table has its rows", "the share of the rows that the experiment asks for which every arm has", tableHasRows},
	{"claims", 8, "the claims hold", "the share of the expectations asked that hold; `not reached` is left out", claimsHold},
	{"predictions", 4, "the predictions hold", "the share of the predictions with a tolerance that are within it", predictionsHold},
	{"packets", 4, "packets are shown as evidence", "the share of the sheet's evidence that has a ladder and a capture", packetsShown},
	{"settings", 4, "kernel settings are justified", "the share of the kernel settings that arms change which have a reason", settingsJustified},
	{"notes", 6, "the student's own words are in it", "notes.md has 150 words or more that are not the report's own (4 points in proportion), and speaks of what the experiment is about (2 points in proportion)", notesAreThere},
	{"explanation", 15, "the explanation is right", "the notes say what was broken, which packet or counter shows it, why the lever removes it, and what it costs; a number from the student's own run stands beside each claim", nil},
	{"questions", 15, "the questions are answered", "the manual's questions to this experiment, in equal parts", nil},
}

// wanted are, for each experiment, the rows of the table that every arm must
// have, and what the notes must speak of: one of the words of each entry.
var wanted = map[string]struct {
	rows  []string
	words [][]string
}{
	"churn":            {[]string{"latency.p50", "latency.p99", "handshakes.rate", "sockets.time_wait.max"}, [][]string{{"TIME-WAIT"}, {"pool", "reuse"}, {"MSL"}, {"round trip", "RTT"}}},
	"ladder":           {[]string{"requests.rate", "latency.p50", "sockets.time_wait.max"}, [][]string{{"TIME-WAIT"}, {"pool", "reuse"}, {"tcp_tw_reuse"}, {"tcp_fin_timeout"}}},
	"nagle":            {[]string{"latency.p50", "latency.p99"}, [][]string{{"Nagle"}, {"delayed ACK"}, {"TCP_NODELAY"}}},
	"congestion":       {[]string{"goodput", "tcp.cwnd.p50", "tcp.rtt.p50", "tcp.resent"}, [][]string{{"CUBIC"}, {"BBR"}, {"loss"}, {"cwnd", "congestion window"}}},
	"synflood":         {[]string{"requests.ok", "sockets.syn_recv.max"}, [][]string{{"cookie"}, {"backlog"}, {"window scal", "wscale"}}},
	"old-duplicates":   {[]string{"stale.bytes"}, [][]string{{"TIME-WAIT"}, {"timestamp", "PAWS"}, {"sequence number"}}},
	"close-wait":       {[]string{"sockets.close_wait.max", "descriptors.max"}, [][]string{{"CLOSE-WAIT"}, {"descriptor"}, {"accept"}}},
	"hang":             {[]string{"requests.ok", "errors.ETIMEDOUT"}, [][]string{{"retransmi"}, {"RTO", "backoff"}, {"TCP_USER_TIMEOUT"}}},
	"zombie":           {[]string{"requests.ok"}, [][]string{{"keepalive"}, {"idle"}}},
	"half-open":        {[]string{"written", "believed"}, [][]string{{"send buffer", "buffer"}, {"acknowledge"}}},
	"ghost":            {[]string{"requests.ok", "queue.depth.max"}, [][]string{{"load balancer"}, {"FIN"}, {"TCP_USER_TIMEOUT", "keep-alive", "keepalive"}}},
	"conntrack-full":   {[]string{"requests.ok"}, [][]string{{"nf_conntrack_max"}, {"drop"}}},
	"conntrack-expiry": {[]string{"requests.ok"}, [][]string{{"conntrack"}, {"idle", "timeout"}}},
}

// leastWords are how many of a student's own the notes must have.
const leastWords = 150
