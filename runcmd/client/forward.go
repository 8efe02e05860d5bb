package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// forwardRequest reads LOCAL:[HOST:]PORT. LOCAL may be 0 for any, and may have an address before it.
func forwardRequest(target, spec, reason string) (listen string, r request, err error) {
	f := strings.Split(spec, ":")
	r = request{Target: target, Reason: reason, DocumentName: "AWS-StartPortForwardingSession"}
	switch len(f) {
	case 2:
		r.Parameters = map[string][]string{"portNumber": {f[1]}, "localPortNumber": {f[0]}}
	case 3:
		r.DocumentName = "AWS-StartPortForwardingSessionToRemoteHost"
		r.Parameters = map[string][]string{"host": {f[1]}, "portNumber": {f[2]}, "localPortNumber": {f[0]}}
	default:
		return "", r, fmt.Errorf("forward %q: want LOCAL:PORT or LOCAL:HOST:PORT", spec)
	}
	return "127.0.0.1:" + f[0], r, nil
}

// forward listens here, and carries each connection to the guest.
func forward(ctx context.Context, a *api, target, spec, reason string) (int, error) {
	listen, r, err := forwardRequest(target, spec, reason)
	if err != nil {
		return failed, err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return failed, err
	}
	defer l.Close()
	s, err := a.start(ctx, r)
	if err != nil {
		return failed, err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT)
	defer stop()
	c := open(a, s)
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(run) }()
	select {
	case <-c.Begun():
	case err := <-ended:
		if _, text := c.Ended(); err == nil {
			err = fmt.Errorf("the session did not begin: %s", text)
		}
		return failed, err
	}
	fmt.Fprintf(os.Stderr, "%s leads to %s of %s; Ctrl-C ends that\n", l.Addr(), spec[strings.Index(spec, ":")+1:], target)
	go c.Forward(l)
	select {
	case err = <-ended:
	case <-ctx.Done():
		c.Terminate()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
		}
		return 0, nil
	}
	if _, text := c.Ended(); err == nil && text != "" {
		err = fmt.Errorf("%s", text)
	}
	return failed, err
}
