package symbol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// Bounds of MiniDebugInfo, by what xz makes of a symbol table: libxul's is 5 MB unpacked.
const (
	maxDebugdata     = 32 << 20 // bytes packed
	maxDebugdataOpen = 64 << 20 // bytes unpacked
	maxXZDictionary  = 64 << 20 // bytes; xz -9
)

var errXZ = errors.New("not an xz file as linkers' tools write it")

// readDebugdata reads the symbol table in .gnu_debugdata (MiniDebugInfo): an ELF file packed
// with xz. It holds the functions that .dynsym does not.
func readDebugdata(f *elfFile) (*table, error) {
	packed, err := f.contents(".gnu_debugdata", maxDebugdata)
	if err != nil {
		return nil, err
	}
	data, err := unxz(packed, maxDebugdataOpen)
	if err != nil {
		return nil, fmt.Errorf("unpack .gnu_debugdata: %w", err)
	}
	inner, err := parseELF(bytes.NewReader(data), uint64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("read .gnu_debugdata: %w", err)
	}
	t, err := readTable(inner, ".symtab")
	if err != nil {
		return nil, fmt.Errorf("read .gnu_debugdata: %w", err)
	}
	// Only the names are kept of what was unpacked.
	if err := t.keep(); err != nil {
		return nil, fmt.Errorf("read .gnu_debugdata: %w", err)
	}
	return t, nil
}

// unxz unpacks the first block of an xz file (xz-file-format.txt): xz makes one block of
// anything that is smaller than three times its dictionary. The package xz itself is not
// used: it takes as much memory as the file's header tells it to, up to 4 GiB.
func unxz(packed []byte, limit int64) ([]byte, error) {
	const (
		magic       = "\xfd7zXZ\x00"
		headerBytes = 12 // of the stream
		lzma2       = 0x21
	)
	if len(packed) < headerBytes+2 || string(packed[:len(magic)]) != magic {
		return nil, errXZ
	}
	block := packed[headerBytes:]
	size := (int(block[0]) + 1) * 4
	if block[0] == 0 || len(block) < size {
		return nil, errXZ
	}
	head, body := block[1:size-4], block[size:] // a CRC32 ends the header
	const packedSize, openSize, filters = 0x40, 0x80, 0x03
	flags := head[0]
	if flags&filters != 0 {
		return nil, fmt.Errorf("more than one filter: %w", errors.ErrUnsupported)
	}
	head = head[1:]
	for _, present := range []byte{packedSize, openSize} {
		if flags&present == 0 {
			continue
		}
		_, n := binary.Uvarint(head)
		if n <= 0 {
			return nil, errXZ
		}
		head = head[n:]
	}
	if len(head) < 3 || head[0] != lzma2 || head[1] != 1 {
		return nil, fmt.Errorf("filter: %w", errors.ErrUnsupported)
	}
	dictionary, err := lzma.DecodeDictCap(head[2])
	if err != nil || dictionary > maxXZDictionary {
		return nil, fmt.Errorf("dictionary of %d bytes: %w", dictionary, errTooLarge)
	}
	// A dictionary need not be larger than what it is used for.
	config := lzma.Reader2Config{DictCap: int(max(lzma.MinDictCap, min(dictionary, limit)))}
	r, err := config.NewReader2(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(out)) > limit {
		return nil, fmt.Errorf("more than %d bytes: %w", limit, errTooLarge)
	}
	return out, nil
}
