// Command run is chaos for a number of seconds; `make chaos` calls it.
package main
