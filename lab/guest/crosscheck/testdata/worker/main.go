// Command worker times kernel timers, as the init of a guest.
package main

import (
	"tcplab/lab/guest"
	"tcplab/lab/guest/crosscheck"
	"tcplab/netns/tree"
)

func main() {
	tree.Register(crosscheck.Worker, crosscheck.Work)
	guest.Main()
}
