// Command run measures privlink beside its limits and its alternatives, prints one
// table, and writes bench.json and the plots. `make bench` and `make bench-quick` call it.
package main
