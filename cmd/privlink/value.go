package main

import (
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
)

// checkValue refuses what a flag cannot take, before the cli package does with the whole help.
func (l *commandLine) checkValue(flag cli.Flag, name, value string) error {
	var want string
	var err error
	switch flag.(type) {
	case *cli.BoolFlag:
		want = "true or false"
		_, err = strconv.ParseBool(value)
	case *cli.IntFlag, *cli.Int64Flag:
		want = "a whole number"
		_, err = strconv.ParseInt(value, 0, 64)
	case *cli.Uint64Flag:
		want = "a whole number from 0 up"
		_, err = strconv.ParseUint(value, 0, 64)
	case *cli.DurationFlag:
		want = "a time such as 90s, 15m or 720h"
		_, err = time.ParseDuration(value)
	}
	if err != nil {
		return l.errorf("flag %s: %q is not %s", dashed(name), value, want)
	}
	return nil
}
