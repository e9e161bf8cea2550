package docs

import (
	"maps"
	"slices"
	"testing"
)

// pure packages import the standard library and the packages of ours that stand here,
// nothing else.
func pure() map[string][]string {
	return map[string][]string{
		"internal/event":     {},
		"internal/lifecycle": {"internal/event"},
		"internal/diagnosis": {"internal/event"},
		"internal/ports":     {"internal/event"},
	}
}

// apart lists what a package does not reach, by whatever way.
func apart() map[string][]string {
	return map[string][]string{
		"internal/tracer": {"internal/record", "internal/report", "internal/diagnosis", "internal/lifecycle"},
		"internal/record": {"internal/tracer"},
		"internal/report": {"internal/tracer", "internal/pipeline"},
		"internal/filter": {"internal/tracer"},
		"internal/owner":  {"internal/tracer", "internal/record", "internal/report"},
	}
}

// importers lists who alone imports a package of ours directly.
func importers() map[string][]string {
	return map[string][]string{
		"cmd":               {},
		"internal/tracer":   {"internal/pipeline", "internal/stack"},
		"internal/stack":    {"internal/pipeline"},
		"internal/pipeline": {"cmd"},
		"internal/destroy":  {"internal/pipeline"},
		"internal/cri":      {"internal/pipeline"},
		"internal/testenv":  {"internal/testenv"},
		"internal/bench":    {},
	}
}

func TestPurePackages(t *testing.T) {
	all := packages(t)
	for dir, allowed := range pure() {
		mustExist(t, all, append(allowed, dir)...)
		for imported := range all[dir].imports {
			if !standard(imported) && !slices.ContainsFunc(allowed, func(a string) bool { return imported == module+a }) {
				t.Errorf("%s imports %s; besides the standard library it may import %v", dir, imported, allowed)
			}
		}
	}
}

func TestPackagesApart(t *testing.T) {
	all := packages(t)
	for dir, others := range apart() {
		mustExist(t, all, append(others, dir)...)
		reached := reach(all, dir)
		for _, other := range others {
			if reached[other] {
				t.Errorf("%s reaches %s", dir, other)
			}
		}
	}
}

func TestImporters(t *testing.T) {
	all := packages(t)
	for dir, allowed := range importers() {
		mustExist(t, all, append(allowed, dir)...)
		for from, p := range all {
			ok := slices.ContainsFunc(append(allowed, dir), func(a string) bool { return below(from, a) })
			for imported := range p.imports {
				if !ok && below(imported, module+dir) {
					t.Errorf("%s imports %s, only %v may", from, imported, allowed)
				}
			}
		}
	}
}

// users lists which package of ours alone uses one of others', besides the makers of test
// peers and what measures the cost. Tests count too: what needs eBPF is tested in internal/tracer.
func users() map[string]string {
	return map[string]string{
		"github.com/cilium/ebpf":         "internal/tracer",
		"github.com/vishvananda/netlink": "internal/destroy",
		"k8s.io/cri-api":                 "internal/cri",
		"google.golang.org/grpc":         "internal/cri",
	}
}

func TestOneUserOfOthers(t *testing.T) {
	all := packages(t)
	for theirs, ours := range users() {
		mustExist(t, all, ours)
		used := false
		for dir, p := range all {
			for _, imports := range []map[string]bool{p.imports, p.testImports} {
				for imported := range maps.Keys(imports) {
					switch {
					case !below(imported, theirs):
					case below(dir, ours):
						used = true
					case below(dir, "internal/testenv") && ours == "internal/cri":
					case below(dir, "internal/bench") && ours == "internal/tracer":
					default:
						t.Errorf("%s imports %s, only %s may", dir, imported, ours)
					}
				}
			}
		}
		if !used {
			t.Errorf("%s does not import %s: this test holds nothing any more", ours, theirs)
		}
	}
}

// mustExist: a rule about a package that was renamed would hold nothing.
func mustExist(t *testing.T, all map[string]*pkg, names ...string) {
	t.Helper()
	for _, name := range names {
		found := false
		for dir := range all {
			found = found || below(dir, name)
		}
		if !found {
			t.Fatalf("no package %s: rename it in this test as well", name)
		}
	}
}
