// Command lab-clean removes every lab whose owner is gone: what kill -9 or `privlink demo --keep`
// left. Labs of running processes are left alone. `make lab-clean` calls it.
package main

import (
	"fmt"
	"os"

	"github.com/privlink/privlink/pkg/lab"
)

func main() {
	ids, err := lab.RemoveOrphans()
	for _, id := range ids {
		fmt.Println("removed lab", id)
	}
	if len(ids) == 0 {
		fmt.Println("no lab without an owner")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab-clean:", err)
		os.Exit(1)
	}
}
