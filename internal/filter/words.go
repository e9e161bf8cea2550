package filter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// words checks the literals that are compared with a field of fixed words: a
// mistyped one would silently choose nothing. States are accepted in every spelling and
// put into the record's.
type words struct{ err error }

// stateFields hold a state, wordFields one of a few words.
var stateFields = []string{"state", "old_state", "new_state", "peer.state"}

func wordFields() map[string][]string {
	causes := map[string]bool{}
	var names []string
	for _, r := range diagnosis.Rules() {
		if c := string(r.Cause); c != "" && !causes[c] {
			causes[c] = true
			names = append(names, c)
		}
	}
	var evidence []string
	for e := event.EvidenceNone; e <= event.EvidenceScan; e++ {
		evidence = append(evidence, e.String())
	}
	return map[string][]string{
		"cause": names, "owner.evidence": evidence,
		"direction": {event.In.String(), event.Out.String()},
		"family":    {"ipv4", "ipv6"},
		"protocol":  {event.TCP.String(), event.MPTCP.String()},

		"dwell_bound":    {event.Exact.String(), event.AtLeast.String()},
		"in_state_bound": {event.Exact.String(), event.AtLeast.String()},
	}
}

// Visit implements ast.Visitor.
func (w *words) Visit(node *ast.Node) {
	n, ok := (*node).(*ast.BinaryNode)
	if !ok || w.err != nil || !slices.Contains([]string{"==", "!=", "in", "not in"}, n.Operator) {
		return
	}
	w.literals(pathOf(n.Left), n.Right)
	w.literals(pathOf(n.Right), n.Left)
}

// literals checks one literal or a list of them against the words of a field.
func (w *words) literals(field string, n ast.Node) {
	switch n := n.(type) {
	case *ast.ArrayNode:
		for _, item := range n.Nodes {
			w.literals(field, item)
		}
	case *ast.StringNode:
		if slices.Contains(stateFields, field) {
			state, err := event.ParseState(n.Value)
			if err != nil {
				w.err = err
				return
			}
			n.Value = state.String()
			return
		}
		if valid, fixed := wordFields()[field]; fixed && !slices.Contains(valid, n.Value) {
			w.err = fmt.Errorf("%s is never %q: it is one of %s", field, n.Value, strings.Join(valid, ", "))
		}
	}
}
