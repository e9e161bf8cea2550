// Package report writes records for people and for programs: tables, JSON, JSON lines
// and CSV.
//
// Every string that a process chose has been escaped before it gets here (record.Escape);
// CSV cells that a spreadsheet would take for a formula have their first
// character escaped in the same spelling.
package report
