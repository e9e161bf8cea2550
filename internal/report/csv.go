package report

import (
	"bytes"
	"io"
)

// writeCSV writes a header of field names and the rows as RFC 4180 has it, with
// single newlines. An unknown value is an empty cell.
func writeCSV[R any](w io.Writer, cols []column[R], rs rows[R]) error {
	buf := appendCSVHeader(nil, cols)
	var cell []byte
	for row := range rs.all() {
		buf, cell = appendCSVRow(buf, cell, cols, row)
		if len(buf) >= chunk {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	_, err := w.Write(buf)
	return err
}

func appendCSVHeader[R any](dst []byte, cols []column[R]) []byte {
	for i, c := range cols {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, c.name...)
	}
	return append(dst, '\n')
}

// appendCSVRow uses cell as scratch space and returns it.
func appendCSVRow[R any](dst, cell []byte, cols []column[R], row R) ([]byte, []byte) {
	for i := range cols {
		if i > 0 {
			dst = append(dst, ',')
		}
		cell = cols[i].text(cell[:0], row)
		dst = appendCSVCell(dst, cell, cols[i].number != nil)
	}
	return append(dst, '\n'), cell
}

// appendCSVCell quotes where needed. Text that a spreadsheet would take for a formula
// has its first character escaped, as \x3d for =, because it may come from a
// process that wants just that.
func appendCSVCell(dst, cell []byte, numeric bool) []byte {
	if !numeric && len(cell) > 0 && bytes.IndexByte([]byte("=+-@"), cell[0]) >= 0 {
		const hex = "0123456789abcdef"
		return appendCSVCell(dst, append([]byte{'\\', 'x', hex[cell[0]>>4], hex[cell[0]&15]}, cell[1:]...), false)
	}
	if bytes.IndexByte(cell, '"') < 0 && bytes.IndexByte(cell, ',') < 0 && !bytes.HasPrefix(cell, []byte(" ")) {
		return append(dst, cell...)
	}
	dst = append(dst, '"')
	for _, b := range cell {
		if b == '"' {
			dst = append(dst, '"')
		}
		dst = append(dst, b)
	}
	return append(dst, '"')
}
