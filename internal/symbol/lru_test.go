package symbol

import "testing"

func TestLRU(t *testing.T) {
	l := newLRU[string, int](10)
	l.put("a", 1, 4)
	l.put("b", 2, 4)
	if v, ok := l.get("a"); v != 1 || !ok {
		t.Errorf("a: got %d, %v", v, ok)
	}
	l.put("c", 3, 4) // b was not used for longest
	if _, ok := l.get("b"); ok {
		t.Error("b is still there")
	}
	l.put("a", 5, 1)
	if v, _ := l.get("a"); v != 5 || l.used != 5 {
		t.Errorf("a: got %d, %d used", v, l.used)
	}
	l.put("huge", 6, 100)
	if v, ok := l.get("huge"); v != 6 || !ok || l.recent.Len() != 1 || l.used != 100 {
		t.Errorf("huge: got %d, %v, %d entries, %d used", v, ok, l.recent.Len(), l.used)
	}
	l.put("d", 7, 1)
	if _, ok := l.get("huge"); ok || l.used != 1 || len(l.entries) != 1 {
		t.Errorf("huge is still there, %d used", l.used)
	}
}
