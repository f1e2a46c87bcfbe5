package main

import (
	"os"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	"github.com/posener/complete"

	"tcplab/lab/sheets"
)

type completionCmd struct {
	kongcompletion.Completion `embed:""`
}

// completes answers a shell that asks what may come next.
func completes(parser *kong.Kong) bool {
	if os.Getenv("COMP_LINE") == "" {
		return false
	}
	kongcompletion.Register(parser, kongcompletion.WithPredictor("experiment", complete.PredictSet(sheets.All()...)),
		kongcompletion.WithExitFunc(func(int) {}))
	return true
}
