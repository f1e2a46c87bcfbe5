#!/bin/sh
# Collects what a diagnosis of this host's TCP needs, for a machine where
# nothing can be installed. It only reads, takes two looks a second apart, and
# runs with any POSIX shell (dash, busybox). As root it can name processes.
#
#   sh collector.sh > sample.txt        here
#   tcplab triage --from sample.txt     where tcplab is
LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH

have() { command -v "$1" >/dev/null 2>&1; }
show() { if [ -r "$1" ]; then cat "$1" 2>/dev/null; fi; }

look() {
	echo "== time $1"
	read -r up rest </proc/uptime && echo "$up"
	echo "== nstat $1"
	# -s: nstat keeps no history of this. What is 0 it leaves out.
	if have nstat; then nstat -as; else show /proc/net/snmp; show /proc/net/netstat; fi
	echo "== sockstat $1"
	show /proc/net/sockstat
	echo "== conntrack $1"
	if [ -r /proc/net/stat/nf_conntrack ]; then
		echo "count $(show /proc/sys/net/netfilter/nf_conntrack_count)"
		echo "max $(show /proc/sys/net/netfilter/nf_conntrack_max)"
		show /proc/net/stat/nf_conntrack
	elif [ ! -d /proc/sys/net/netfilter ]; then
		echo "none"
	fi
	if have ss; then
		echo "== ss $1"
		ss "$2"
	else
		echo "== tcp $1"
		show /proc/net/tcp
		show /proc/net/tcp6
	fi
}

echo "# tcplab triage collector 1"
echo "== host"
uname -n
uname -r
echo "== sysctl"
for key in @SYSCTLS@; do
	file=/proc/sys/$(echo "$key" | tr . /)
	if [ -r "$file" ]; then echo "$key = $(show "$file" | tr '\t' ' ')"; fi
done
look 1 -tanoe
sleep 1
look 2 -tanoiep
echo "== limits"
if have ss; then
	ss -tanp | sed -n '/^CLOSE-WAIT/s/.*users:(("[^"]*",pid=\([0-9]*\),.*/\1/p' | sort -u | head -n 50 | while read -r pid; do
		files=$(ls "/proc/$pid/fd" 2>/dev/null | wc -l)
		limit=$(show "/proc/$pid/limits" | sed -n 's/^Max open files *\([0-9][0-9]*\).*/\1/p')
		echo "$pid $files ${limit:-0}"
	done
fi
echo "== end"
