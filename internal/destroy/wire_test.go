package destroy

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// The kernel's answer to what we ask for names the same socket.
func TestRequestAndAnswerAgree(t *testing.T) {
	for _, flow := range []event.Flow{
		{Local: netip.MustParseAddrPort("10.1.2.3:8080"), Remote: netip.MustParseAddrPort("10.4.5.6:50001")},
		{Local: netip.MustParseAddrPort("[2001:db8::1]:443"), Remote: netip.MustParseAddrPort("[fe80::2]:50002")},
		{Local: netip.MustParseAddrPort("[::ffff:10.1.2.3]:8080"), Remote: netip.MustParseAddrPort("[::ffff:10.4.5.6]:50001")},
	} {
		want := idOf(0x1122334455667788, flow)
		want.device = 7
		r := request{want, event.SetOf(event.CloseWait)}
		b := r.append(nil)
		if len(b) != requestSize {
			t.Fatalf("%d bytes, want %d", len(b), requestSize)
		}
		if states := binary.NativeEndian.Uint32(b[4:]); states != 1<<8 || b[0] != want.family || b[1] != unix.IPPROTO_TCP {
			t.Errorf("family %d, protocol %d, states %#x", b[0], b[1], states)
		}
		answer := append([]byte{want.family, byte(event.CloseWait), 0, 0}, b[8:]...)
		answer = append(answer, make([]byte, 20)...)
		got, err := parse(answer)
		if err != nil || got.id != want || got.State != event.CloseWait {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(make([]byte, messageSize))
	f.Add(make([]byte, messageSize-1))
	f.Fuzz(func(t *testing.T, message []byte) {
		s, err := parse(message)
		if (err == nil) != (len(message) >= messageSize) {
			t.Errorf("%d bytes: %v", len(message), err)
		}
		r := request{id: s.id}
		if n := len(r.append(nil)); n != requestSize {
			t.Errorf("request of %d bytes", n)
		}
	})
}
