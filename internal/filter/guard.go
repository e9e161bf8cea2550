package filter

import (
	"maps"
	"slices"

	"github.com/expr-lang/expr/ast"
)

// guard rewrites a condition so that it is true only where it is certainly true: each
// comparison that reads a field first asks whether the field is known. A negation asks
// for "certainly false", so it moves inwards (de Morgan) down to the comparisons.
func guard(root ast.Node, nullable map[string]bool) string {
	g := guarder{nullable}
	return g.certain(root, true).String()
}

type guarder struct{ nullable map[string]bool }

// certain returns a condition that holds where n certainly has the wanted value.
func (g guarder) certain(n ast.Node, want bool) ast.Node {
	switch n := n.(type) {
	case *ast.UnaryNode:
		if n.Operator == "!" || n.Operator == "not" {
			return g.certain(n.Node, !want)
		}
	case *ast.BinaryNode:
		if op := logical(n.Operator); op != "" {
			if !want {
				op = map[string]string{"&&": "||", "||": "&&"}[op]
			}
			return &ast.BinaryNode{Operator: op, Left: g.certain(n.Left, want), Right: g.certain(n.Right, want)}
		}
	case *ast.VariableDeclaratorNode:
		// A value that cannot be computed is an error at run time: not chosen either.
		return &ast.VariableDeclaratorNode{
			Name: n.Name, Value: n.Value, Expr: g.known(n.Value, g.certain(n.Expr, want)),
		}
	}
	if !want {
		return g.known(n, &ast.UnaryNode{Operator: "not", Node: n})
	}
	return g.known(n, n)
}

func logical(operator string) string {
	switch operator {
	case "&&", "and":
		return "&&"
	case "||", "or":
		return "||"
	}
	return ""
}

// known puts the question whether all that n reads is known before then.
func (g guarder) known(n, then ast.Node) ast.Node {
	paths := map[string]ast.Node{}
	g.collect(n, paths)
	for _, path := range slices.Backward(slices.Sorted(maps.Keys(paths))) {
		known := &ast.BinaryNode{Operator: "!=", Left: paths[path], Right: &ast.NilNode{}}
		then = &ast.BinaryNode{Operator: "&&", Left: known, Right: then}
	}
	return then
}

// collect finds the fields whose value n needs. Those that are compared with nil, or
// have a default by ??, may be unknown.
func (g guarder) collect(n ast.Node, paths map[string]ast.Node) {
	if path := pathOf(n); g.nullable[path] {
		paths[path] = n
		return
	}
	if b, ok := n.(*ast.BinaryNode); ok {
		switch {
		case b.Operator == "??" && pathOf(b.Left) != "":
			g.collect(b.Right, paths)
			return
		case (b.Operator == "==" || b.Operator == "!=") && (isNil(b.Left) || isNil(b.Right)):
			return
		}
	}
	for _, child := range children(n) {
		g.collect(child, paths)
	}
}

func isNil(n ast.Node) bool { _, ok := n.(*ast.NilNode); return ok }

// pathOf spells a.b.c, "" for anything else.
func pathOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		return n.Value
	case *ast.ChainNode:
		return pathOf(n.Node)
	case *ast.MemberNode:
		name, ok := n.Property.(*ast.StringNode)
		if base := pathOf(n.Node); ok && base != "" {
			return base + "." + name.Value
		}
	}
	return ""
}

// children are the direct operands of a node. Inside a predicate the fields of its
// elements are always known, fields of the record may not be.
func children(n ast.Node) []ast.Node {
	switch n := n.(type) {
	case *ast.UnaryNode:
		return []ast.Node{n.Node}
	case *ast.BinaryNode:
		return []ast.Node{n.Left, n.Right}
	case *ast.ChainNode:
		return []ast.Node{n.Node}
	case *ast.MemberNode:
		return []ast.Node{n.Node, n.Property}
	case *ast.SliceNode:
		return present(n.Node, n.From, n.To)
	case *ast.CallNode:
		return append([]ast.Node{n.Callee}, n.Arguments...)
	case *ast.BuiltinNode:
		return n.Arguments
	case *ast.PredicateNode:
		return []ast.Node{n.Node}
	case *ast.ConditionalNode:
		return []ast.Node{n.Cond, n.Exp1, n.Exp2}
	case *ast.SequenceNode:
		return n.Nodes
	case *ast.ArrayNode:
		return n.Nodes
	case *ast.MapNode:
		return n.Pairs
	case *ast.PairNode:
		return []ast.Node{n.Key, n.Value}
	}
	return nil
}

func present(nodes ...ast.Node) []ast.Node {
	return slices.DeleteFunc(nodes, func(n ast.Node) bool { return n == nil })
}
