package symbol

import "container/list"

// lru forgets what was not used for longest when its entries cost more than max. It is not
// safe for concurrent use.
type lru[K comparable, V any] struct {
	max, used int64
	entries   map[K]*list.Element // of *lruEntry[K, V]
	recent    list.List           // most recently used first
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
	cost  int64
}

func newLRU[K comparable, V any](limit int64) *lru[K, V] {
	return &lru[K, V]{max: limit, entries: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(k K) (v V, ok bool) {
	el, ok := l.entries[k]
	if !ok {
		return v, false
	}
	l.recent.MoveToFront(el)
	return el.Value.(*lruEntry[K, V]).value, true
}

// put remembers v, in place of an older one. An entry that costs more than max is kept
// until the next one comes.
func (l *lru[K, V]) put(k K, v V, cost int64) {
	if el, ok := l.entries[k]; ok {
		l.drop(el)
	}
	l.entries[k] = l.recent.PushFront(&lruEntry[K, V]{k, v, cost})
	l.used += cost
	for l.used > l.max && l.recent.Len() > 1 {
		l.drop(l.recent.Back())
	}
}

func (l *lru[K, V]) drop(el *list.Element) {
	e := l.recent.Remove(el).(*lruEntry[K, V])
	delete(l.entries, e.key)
	l.used -= e.cost
}
