package sheet

import (
	"fmt"
	"slices"
)

// Leave takes an arm out that cannot run here, with the reason in a few words
// ("the kernel lacks bbr"): entries that name it become not asked. The baseline
// cannot be left out, since nothing remains to compare with.
func (e *Experiment) Leave(arm, why string) error {
	i := slices.IndexFunc(e.Arms, func(a Arm) bool { return a.Name == arm })
	switch {
	case i < 0:
		return fmt.Errorf("no arm %s in %s", arm, e.Name)
	case e.Arms[i].Baseline:
		return fmt.Errorf("the baseline %s cannot run here: %s", arm, why)
	}
	e.Arms = slices.Delete(e.Arms, i, i+1)
	reason := "arm " + arm + ": " + why
	mark := func(notAsked *string, arms ...string) {
		if *notAsked == "" && contains(arms, arm) {
			*notAsked = reason
		}
	}
	for i := range e.Predict {
		p := &e.Predict[i]
		mark(&p.NotAsked, armsOf(parsed(newText(pos{}, p.Of)), p.Is, p.Unless)...)
	}
	for i := range e.Expect {
		x := &e.Expect[i]
		mark(&x.NotAsked, armsOf(x.That, x.Unless)...)
	}
	for i := range e.Evidence {
		mark(&e.Evidence[i].NotAsked, e.Evidence[i].Capture)
	}
	for i := range e.Triage {
		mark(&e.Triage[i].NotAsked, e.Triage[i].Arm)
	}
	return nil
}
