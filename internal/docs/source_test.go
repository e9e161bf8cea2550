package docs

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/tcpwaitd/tcpwaitd/"
)

// pkg is one package of ours as its files say, whatever their build tags.
type pkg struct {
	// about is the first sentence of the package comment.
	about string
	// imports are those of the code, testImports those of its tests.
	imports, testImports map[string]bool
}

// ours are the packages that pkg's code imports and that are not from elsewhere.
func (p *pkg) ours() []string {
	var found []string
	for _, imported := range slices.Sorted(maps.Keys(p.imports)) {
		if dir, ok := strings.CutPrefix(imported, module); ok {
			found = append(found, dir)
		}
	}
	return found
}

// packages reads every package of the module, by directory.
func packages(t *testing.T) map[string]*pkg {
	t.Helper()
	found := map[string]*pkg{}
	for _, top := range []string{"cmd", "e2e", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && entry.Name() == "testdata":
				return fs.SkipDir
			case strings.HasSuffix(name, ".go"):
				return addFile(found, name)
			default:
				return nil
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func addFile(found map[string]*pkg, name string) error {
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return err
	}
	dir, err := filepath.Rel(root, filepath.Dir(name))
	if err != nil {
		return err
	}
	p := found[filepath.ToSlash(dir)]
	if p == nil {
		p = &pkg{imports: map[string]bool{}, testImports: map[string]bool{}}
		found[filepath.ToSlash(dir)] = p
	}
	to := p.imports
	if strings.HasSuffix(name, "_test.go") {
		to = p.testImports
	} else if file.Doc != nil {
		p.about = sentence(file)
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		to[imported] = true
	}
	return nil
}

// sentence drops "Package x", which the table says already.
func sentence(file *ast.File) string {
	text := new(doc.Package).Synopsis(file.Doc.Text())
	for _, opening := range []string{"Package " + file.Name.Name + " is ", "Package " + file.Name.Name + " "} {
		if rest, ok := strings.CutPrefix(text, opening); ok {
			return rest
		}
	}
	return text
}

// reach is dir's imports of ours, and theirs, and so on.
func reach(all map[string]*pkg, dir string) map[string]bool {
	reached := map[string]bool{}
	var visit func(string)
	visit = func(dir string) {
		if all[dir] == nil {
			return
		}
		for _, next := range all[dir].ours() {
			if !reached[next] {
				reached[next] = true
				visit(next)
			}
		}
	}
	visit(dir)
	return reached
}

// below reports whether imported is name or inside it.
func below(imported, name string) bool {
	return imported == name || strings.HasPrefix(imported, name+"/")
}

// standard packages have no dot in the first part of their path.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// inOrder sorts packages so that each comes after all it imports.
func inOrder(all map[string]*pkg) []string {
	depth := map[string]int{}
	var measure func(string) int
	measure = func(dir string) int {
		if d, ok := depth[dir]; ok || all[dir] == nil {
			return d
		}
		d := 0
		for _, next := range all[dir].ours() {
			d = max(d, measure(next)+1)
		}
		depth[dir] = d
		return d
	}
	dirs := slices.Sorted(maps.Keys(all))
	for _, dir := range dirs {
		measure(dir)
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return depth[a] - depth[b] })
	return dirs
}

// base names a package of ours in a sentence.
func base(dir string) string { return "`" + path.Base(dir) + "`" }
