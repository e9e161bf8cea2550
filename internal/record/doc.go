// Package record defines what leaves tcpwaitd: one Go type for each kind of
// record, with the JSON names scripts and dashboards are written against, and
// builders from the inner types. It is pure: clock readings and process facts are
// passed in.
//
// Unknown is absent or null, never 0. Where zero cannot be a true value the field is
// plain and left out when zero; where it can, the field is a pointer.
//
// Every string that a process can choose (names, command lines, paths) goes
// through [Escape] when the record is built, so it is safe in every output format,
// and equal in all of them.
package record

// Schema names the version of the records. It changes only when a field changes its
// meaning or goes away.
const Schema = "tcpwaitd/v1"

// The kinds of records.
const (
	KindTransition = "transition"
	KindLoss       = "loss"
	KindSocket     = "socket"
	KindList       = "list"
	KindGroups     = "groups"
	KindDiagnosis  = "diagnosis"
	KindExplain    = "explain"
	KindStates     = "states"
	KindDoctor     = "doctor"
)

// Head opens every record. Schema is absent in records inside another one.
type Head struct {
	Schema string `json:"schema,omitempty"`
	Kind   string `json:"kind"`
}

func head(kind string) Head { return Head{Schema: Schema, Kind: kind} }

// Word is a word of the contract, null when unknown.
type Word string

// MarshalJSON encodes the empty word as null.
func (w Word) MarshalJSON() ([]byte, error) {
	if w == "" {
		return []byte("null"), nil
	}
	return appendString(nil, string(w)), nil
}
