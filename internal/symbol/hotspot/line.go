package hotspot

// maxLineTable bounds the line numbers of one method, in bytes. A method has at most
// 65,535 bytes of code, and most have a line per ten bytes of it, at one byte each. What
// is longer has no lines.
const maxLineTable = 32 << 10

// lineTable finds the line numbers of a method: they follow its bytecode.
func (r *Runtime) lineTable(v *methodView) (start, end uint64) {
	o := r.offsets
	if uint64(v.constMethod.u16(o.constFlags))&o.hasLines == 0 {
		return 0, 0
	}
	from := o.constSize + uint64(v.constMethod.u16(o.constCodeSize))
	to := uint64(v.constMethod.u32(o.constWords)) * pointerSize
	if from >= to {
		return 0, 0
	}
	return v.key.constMethod + from, v.key.constMethod + min(to, from+maxLineTable)
}

// line is the line of the bytecode at index bci, 0 if unknown. The entry of a method has
// index -1 and the line of the first one.
func (r *Runtime) line(m *method, bci int32) int {
	if m.lineTable == 0 {
		return 0
	}
	data, err := r.memory.read(m.lineTable, int(m.lineTableEnd-m.lineTable))
	if err != nil {
		return 0
	}
	return lineAt(r.offsets.unsigned5(data), max(bci, 0))
}

// lineAt looks for the entry that starts at bci, or last before. Entries are differences
// to the one before: small ones in a byte, others in two signed numbers after a mark.
// They need not be in order: javac writes loops so.
func lineAt(u *unsigned5, bci int32) int {
	const (
		end      = 0
		mark     = 0xff
		lineBits = 3
	)
	var at, line, best, found int32
	for {
		switch b := u.byte(); {
		case u.bad:
			return 0
		case b == end:
			return int(found)
		case b == mark:
			at += u.signed()
			line += u.signed()
		default:
			at += int32(b >> lineBits)
			line += int32(b & (1<<lineBits - 1))
		}
		switch {
		case at == bci:
			return int(max(line, 0))
		case at < bci && at >= best:
			best, found = at, max(line, 0)
		}
	}
}
