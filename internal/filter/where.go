package filter

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"

	"github.com/tcpwaitd/tcpwaitd/internal/diagnosis"
	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// where is a compiled --where expression. Unknown fields are null in it, and a
// comparison with null is neither true nor false, as in SQL: the record is chosen only
// if the expression is true whatever the unknown values are. `x == nil` asks whether x
// is unknown.
type where struct {
	program *vm.Program
	pool    sync.Pool // of *evaluator
	// failed is the first error of an evaluation that was not about something unknown.
	failed atomic.Pointer[error]
}

// evaluator is what one evaluation needs, kept because it is large.
type evaluator struct {
	vm         vm.VM
	slots      slots
	transition transitionEnv
	socket     socketEnv
}

func newWhere(source string, target Target) (*where, error) {
	var env any = transitionEnv{}
	if target == Sockets {
		env = socketEnv{}
	}
	// First as it was written: errors then point into the user's text.
	if _, err := expr.Compile(source, expr.Env(env), expr.AsAny()); err != nil {
		return nil, whereError(source, err, env)
	}
	tree, err := parser.Parse(source)
	if err != nil {
		return nil, whereError(source, err, env)
	}
	var fixed words
	ast.Walk(&tree.Node, &fixed)
	if fixed.err != nil {
		return nil, &FlagError{"where", source, "words that the field can have: " + fixed.err.Error()}
	}
	guarded := guard(tree.Node, nullable(env))
	program, err := expr.Compile(guarded, expr.Env(env), expr.AsBool())
	if err != nil {
		return nil, whereError(source, fmt.Errorf("it is not a condition (true or false)"), env)
	}
	w := &where{program: program}
	w.pool.New = func() any { return new(evaluator) }
	return w, nil
}

func whereError(source string, err error, env any) error {
	// The library points at the place on further lines; the first one says it all.
	reason, _, _ := strings.Cut(err.Error(), "\n")
	want := fmt.Sprintf("an expression such as 'dwell_ns > 5e9 && owner.comm == \"java\"': %s", reason)
	if _, ok := env.(transitionEnv); ok {
		want = fmt.Sprintf("an expression such as 'new_state == \"CLOSE_WAIT\" && owner.comm == \"java\"': %s", reason)
	}
	if strings.Contains(reason, "unknown name") || strings.Contains(reason, "has no field") {
		want += "; valid fields: " + strings.Join(fieldNames(env), ", ")
	}
	return &FlagError{"where", source, want}
}

// socket evaluates; an error at run time means that something unknown was used in a way
// null cannot be: not chosen.
func (w *where) socket(c *diagnosis.Case, facts *record.Facts) bool {
	e := w.pool.Get().(*evaluator)
	defer w.pool.Put(e)
	e.slots.reset()
	e.fillSocket(c, facts)
	return w.run(e, &e.socket)
}

func (w *where) transition(t *event.Transition, cgroup record.Cgroup) bool {
	e := w.pool.Get().(*evaluator)
	defer w.pool.Put(e)
	e.slots.reset()
	e.fillTransition(t, cgroup)
	return w.run(e, &e.transition)
}

func (w *where) run(e *evaluator, env any) bool {
	out, err := e.vm.Run(w.program, env)
	if err != nil {
		if text := err.Error(); !strings.Contains(text, "nil") && !strings.Contains(text, "out of range") {
			w.failed.CompareAndSwap(nil, &err)
		}
		return false
	}
	yes, _ := out.(bool)
	return yes
}

// fieldNames lists the paths of an environment, sorted.
func fieldNames(env any) []string {
	var names []string
	walkFields(reflect.TypeOf(env), "", func(path string, _ reflect.Type) {
		names = append(names, path)
	})
	slices.Sort(names)
	return names
}

// nullable is the set of paths that can be unknown.
func nullable(env any) map[string]bool {
	set := map[string]bool{}
	walkFields(reflect.TypeOf(env), "", func(path string, t reflect.Type) {
		if t.Kind() == reflect.Pointer {
			set[path] = true
		}
	})
	return set
}

// walkFields visits the leaves: everything but structures.
func walkFields(t reflect.Type, prefix string, visit func(path string, t reflect.Type)) {
	for i := range t.NumField() {
		field := t.Field(i)
		path := prefix + field.Tag.Get("expr")
		if field.Type.Kind() == reflect.Struct {
			walkFields(field.Type, path+".", visit)
			continue
		}
		visit(path, field.Type)
	}
}
