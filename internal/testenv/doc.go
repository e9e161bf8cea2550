// Package testenv gives tests what they need of the machine: privileges, namespaces and
// makers of waits. It is imported by tests only.
package testenv
