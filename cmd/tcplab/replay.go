package main

import (
	"fmt"
	"os"

	"tcplab/lab"
)

type replayCmd struct {
	Run_ string `arg:"" name:"run" help:"A run's folder, EXPERIMENT (its latest run), or EXPERIMENT/TIME."`
	Jobs int    `help:"Guests side by side; 0 is one for each CPU." default:"0" placeholder:"N"`
}

func (c replayCmd) Run(top *cli) error {
	ctx, stop := interruptible()
	defer stop()
	r, err := lab.Replay(ctx, lab.RunOptions{Results: top.Results, Jobs: c.Jobs, Watch: watcher(), Version: versionWords()}, c.Run_)
	if err != nil {
		return err
	}
	if r.Equal() {
		fmt.Printf("identical: %d trials, %s\n", r.Trials, r.Is)
		return nil
	}
	fmt.Printf("different: %s was %s and is %s\n", relative(r.Dir), r.Was, r.Is)
	for _, d := range r.Doubts {
		fmt.Fprintf(os.Stdout, "  %s\n", d)
	}
	for _, d := range r.Differences {
		fmt.Printf("\n%s, %s: %s\n", d.Trial, d.File, d.Text)
	}
	return exit(lab.ExitFail)
}
