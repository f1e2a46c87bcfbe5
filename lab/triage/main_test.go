package triage

import (
	"testing"

	"tcplab/netns/tree/treetest"
)

func TestMain(m *testing.M) { treetest.Main(m) }
