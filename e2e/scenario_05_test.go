package e2e

import "testing"

// A thread for each connection, and all of them wait for a lock that one keeps
// (3proxy#193, gin#596): where they stand now says it.
func TestScenario05BlockedOnLock(t *testing.T) {
	t.Parallel()
	const request = "a request of 23 bytes.\n"
	for name, server := range map[string]struct {
		start    func(t *testing.T, s *scene) *target
		unread   uint32
		cause    string
		verdict  string
		function string
	}{
		// Blocked before it reads.
		"c": {func(t *testing.T, s *scene) *target {
			t.Helper()
			return s.serve(t, s.compile(t, "gcc", program("deadlock.c"), "deadlock", "-pthread"), "PORT")
		}, uint32(len(request)) + 1, "unread_data", "leaking", "charge_quota"},
		// Blocked when it has read the request, which is one byte. Ends that nobody read could
		// be those of a pool.
		"java": {func(t *testing.T, s *scene) *target {
			t.Helper()
			return s.jvm(t, "Deadlock", "PORT")
		}, 1, "unread_eof", "suspicious", "Deadlock.chargeQuota"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			x := server.start(t, s)
			v := s.grow(t, func(i int) {
				text := request
				if server.cause == "unread_eof" {
					text = "x"
				}
				c := s.dialSaying(t, x.port, text)
				if server.cause == "unread_eof" {
					s.awaitServed(t, c)
				}
				c.Close()
				s.awaitWaits(t, i+1, x.port, server.unread)
				// Accepted, and the thread has come to the lock.
				s.awaitAccepted(t, i+1, x.port)
				awaitAsleep(t, x.pid())
			})
			v.demand(t, server.verdict, accusation{x.pid(), server.cause, "in", n})
			if threads := v.of(t, x.pid()).threadsIn(server.function); threads != n {
				t.Errorf("%d threads stand in %s, want %d: %+v", threads, server.function, n, v.of(t, x.pid()).Threads)
			}
			s.checkList(t, n)
		})
	}
}
