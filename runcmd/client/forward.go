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

// forwardRequest reads LOCAL:[HOST:]PORT. LOCAL may be 0 for any. A HOST with colons, an address of IPv6, stands in brackets.
func forwardRequest(target, spec, reason string) (listen string, r request, err error) {
	r = request{Target: target, Reason: reason, DocumentName: "AWS-StartPortForwardingSession"}
	local, far, ok := strings.Cut(spec, ":")
	if ok && !strings.Contains(far, ":") {
		r.Parameters = map[string][]string{"portNumber": {far}, "localPortNumber": {local}}
		return "127.0.0.1:" + local, r, nil
	}
	host, port, err := net.SplitHostPort(far)
	if err != nil || host == "" {
		return "", r, fmt.Errorf("forward %q: want LOCAL:PORT or LOCAL:HOST:PORT", spec)
	}
	r.DocumentName = "AWS-StartPortForwardingSessionToRemoteHost"
	r.Parameters = map[string][]string{"host": {host}, "portNumber": {port}, "localPortNumber": {local}}
	return "127.0.0.1:" + local, r, nil
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
