package main

import (
	"encoding/json"
	"fmt"

	"tcplab/lab"
	"tcplab/lab/grade"
	"tcplab/lab/sheets"
	"tcplab/results"
)

type gradeCmd struct {
	Run_ string `arg:"" name:"run" help:"A run's folder, EXPERIMENT (its latest run), or EXPERIMENT/TIME."`
	JSON bool   `help:"As JSON."`
}

func (c gradeCmd) Run(top *cli) error {
	dir, err := results.Find(top.Results, c.Run_)
	if err != nil {
		return &lab.Error{Code: lab.ExitUsage, Err: err}
	}
	if err := grade.Ordinary(dir); err != nil {
		return &lab.Error{Code: lab.ExitUsage, Err: fmt.Errorf("%s: %w", relative(dir), err)}
	}
	r, err := results.Load(dir)
	if err != nil {
		return &lab.Error{Code: lab.ExitUsage, Err: err}
	}
	g, err := grade.Grade(dir, r, sheets.Text)
	if err != nil {
		return &lab.Error{Code: lab.ExitUsage, Err: err}
	}
	g.Run = relative(dir)
	if c.JSON {
		out, err := json.MarshalIndent(g, "", " ")
		if err != nil {
			return err
		}
		fmt.Println(string(out))
		return nil
	}
	fmt.Print(g.Markdown())
	return nil
}
