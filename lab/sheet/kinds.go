package sheet

import "tcplab/results"

// Role is what a program is in a sheet.
type Role string

const (
	RoleServer    Role = "server"
	RoleClient    Role = "client"
	RoleMiddlebox Role = "middlebox"
	RoleWorkload  Role = "workload"
	RoleHost      Role = "host"
	RoleLink      Role = "link"
	// roleFault is of maps whose further keys depend on what `do` says.
	roleFault Role = "fault"
)

// A Kind is one sort of program, workload or policy that a sheet may name:
// what keys are its own, what faults it can be given, and whether this build
// can run it. The grammar knows all kinds of the design from the start, so
// that a sheet for a later one decodes, plans and dry-runs today.
type Kind struct {
	Role   Role
	Name   string
	About  string
	Built  bool
	Keys   []Key    // keys that only this kind has (Extra)
	Faults []string // what `do` may say of it
	// Metrics that it brings beside the general ones of its role.
	Metrics []results.MetricInfo
	// Silent kinds of client send no requests, so they have none of the
	// metrics of requests.
	Silent bool
}

// A Key is one key with the form its value has. The tables of keys are the
// grammar: the decoder, the JSON Schema and the reference are made from them.
type Key struct {
	Name       string
	Form       Form
	Unit       string // SI base unit of the decoded number
	About      string
	Default    string   // what its absence means
	Example    string   // one value, as a sheet writes it
	Words      []string // what a word may be; none: any word
	Min, Max   *float64 // bounds of a number, in its unit; both may be reached
	Above      bool     // Min itself is out of bounds
	Required   bool
	Keys       []Key // of a map with fixed keys
	Of         *Key  // of a list, or a map with names: each element
	Or         []Key // other forms that the value may have
	Role       Role  // the map's further keys depend on its `kind`, which is of this role
	Patch      bool  // a layer that is laid over the sheet: a null within deletes
	Identifier bool  // names of a named map are such that paths can name them
}

// Form is how a value is written.
type Form string

const (
	FormDuration  Form = "duration"   // 5ms
	FormRate      Form = "rate"       // 600/s
	FormBitRate   Form = "bit rate"   // 100Mbit/s
	FormSize      Form = "size"       // 128B, 64KiB
	FormCount     Form = "count"      // 64
	FormShare     Form = "share"      // 1%
	FormQuantity  Form = "quantity"   // a number with any unit
	FormWord      Form = "word"       // one of some words
	FormText      Form = "text"       // anything
	FormFlag      Form = "flag"       // true, false
	FormName      Form = "name"       // something that the sheet has
	FormPath      Form = "metric"     // a metric's path
	FormNumber    Form = "expression" // an expression that is a number
	FormCondition Form = "condition"  // an expression that holds or not
	FormEvent     Form = "event"      // EVENT or EVENT + T
	FormValue     Form = "value"      // one number or text, as it stands
	FormAny       Form = "values"     // a map whose keys depend on something else in the sheet
	FormList      Form = "list"
	FormMap       Form = "map"   // fixed keys
	FormNamed     Form = "names" // a map whose keys are names of the user's choice
)

// Kinds lists all kinds, built or not.
func Kinds() []Kind { return append([]Kind(nil), kinds...) }

func kindOf(role Role, name string) *Kind {
	for i := range kinds {
		if kinds[i].Role == role && kinds[i].Name == name {
			return &kinds[i]
		}
	}
	return nil
}

func kindNames(role Role) []string {
	if role == roleFault {
		return verbNames()
	}
	var out []string
	for _, k := range kinds {
		if k.Role == role {
			out = append(out, k.Name)
		}
	}
	return out
}

// kindKeys are the keys that one kind has beside its role's; a verb's for a fault.
func kindKeys(role Role, name string) []Key {
	if role == roleFault {
		if v := verbOf(name); v != nil {
			return v.Keys
		}
		return nil
	}
	if k := kindOf(role, name); k != nil {
		return k.Keys
	}
	return nil
}
