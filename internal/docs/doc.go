// Package docs has no code, only tests: they hold the arrows between the packages, and the
// parts of docs/ that are made from code.
package docs
