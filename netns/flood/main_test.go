package flood_test

import (
	"testing"

	"tcplab/netns/internal/nstest"
	"tcplab/netns/tree/treetest"
)

func TestMain(m *testing.M) { treetest.Main(m) }

func TestAllOfThisAsAPlainUser(t *testing.T) { nstest.AgainAsPlainUser(t) }
