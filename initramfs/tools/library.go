package tools

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/u-root/u-root/pkg/core"
	"github.com/u-root/u-root/pkg/core/base64"
	"github.com/u-root/u-root/pkg/core/cat"
	"github.com/u-root/u-root/pkg/core/chmod"
	"github.com/u-root/u-root/pkg/core/cp"
	"github.com/u-root/u-root/pkg/core/find"
	"github.com/u-root/u-root/pkg/core/mkdir"
	"github.com/u-root/u-root/pkg/core/mktemp"
	"github.com/u-root/u-root/pkg/core/mv"
	"github.com/u-root/u-root/pkg/core/rm"
	"github.com/u-root/u-root/pkg/core/shasum"
	"github.com/u-root/u-root/pkg/core/tar"
	"github.com/u-root/u-root/pkg/core/touch"
	"github.com/u-root/u-root/pkg/core/xargs"
)

// library is what u-root has as libraries. A function and not a variable: a table would be
// filled at every start of every tool.
func library() map[string]func() core.Command {
	return map[string]func() core.Command{
		"base64": base64.New, "cat": cat.New, "chmod": chmod.New, "cp": cp.New, "find": find.New,
		"mkdir": mkdir.New, "mktemp": mktemp.New, "mv": mv.New, "rm": rm.New, "shasum": shasum.New,
		"tar": tar.New, "touch": touch.New, "xargs": xargs.New,
	}
}

func adapt(make func() core.Command) tool {
	return func(ctx context.Context, c *Call) int {
		cmd := make()
		cmd.SetIO(c.Stdin, c.Stdout, c.Stderr)
		cmd.SetWorkingDir(c.Dir)
		cmd.SetLookupEnv(c.Env)
		err := cmd.RunContext(ctx, c.Args...)
		if err == nil || errors.Is(err, flag.ErrHelp) {
			return 0
		}
		fmt.Fprintf(c.Stderr, "%s: %v\n", c.Name, err)
		return 1
	}
}
