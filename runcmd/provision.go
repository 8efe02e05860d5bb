package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/provision"
	"github.com/ichiro-metal/ichiro/internal/userdata"
)

// provisionInstance makes an instance of this machine, once for each boot. Its exit code is 1 if anything could not be
// done; what, is on the console and in the log.
func provisionInstance(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("ichiro-runcmd provision", flag.ExitOnError)
	output := flags.String("output", "/var/log/cloud-init-output.log", "`file` that gets what scripts print, beside the standard output; none when empty")
	server := flags.String("metadata", "169.254.169.254:80", "`address` of the metadata service")
	api := flags.String("api", "169.254.169.254:8773", "`address` of the API, for the certificates")
	patience := flags.Duration("patience", 2*time.Minute, "how `long` to wait for it")
	lock := flags.String("lock", "/run/ichiro-provision.lock", "`file` that lets one process do this")
	copying := flags.Bool("copy", false, "only copy the standard input into the output: for processes that outlive the provisioning")
	flags.Parse(args)
	if *copying {
		return copyOutput(*output)
	}
	if cloudInitEnabled("/") {
		fmt.Println("ichiro-runcmd: cloud-init is installed and enabled here, and does this: nothing is done")
		return nil
	}
	address, err := netip.ParseAddrPort(*server)
	if err != nil {
		return fmt.Errorf("read -metadata: %w", err)
	}
	certificates := provision.Certificates{File: provision.CertificatesFile}
	if certificates.API, err = netip.ParseAddrPort(*api); err != nil {
		return fmt.Errorf("read -api: %w", err)
	}
	held, err := os.OpenFile(*lock, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("take the lock: %w", err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.New("another process provisions this machine now")
	}
	out, finish, err := outputTo(*output)
	if err != nil {
		return err
	}
	defer finish()
	kept := make(chan error, 1)
	go func() { kept <- certificates.Refresh(ctx) }() // while the rest is read
	in, err := provision.Source{Server: address, Root: "/", Patience: *patience}.Read(ctx)
	if err != nil {
		fmt.Fprintf(out, "ichiro: trouble: %v\n", err)
		return err
	}
	in.Get = getURL
	if err := <-kept; err != nil { // scripts find them; who does not need them does not fail for it
		fmt.Fprintf(out, "ichiro: %v\n", err)
	}
	result, err := provision.Run(ctx, provision.System{Root: "/", Commands: provision.Programs{Output: out}, Chown: (*os.Root).Lchown,
		Sethostname: func(name string) error { return unix.Sethostname([]byte(name)) }, Now: time.Now, Console: out}, in)
	if err != nil {
		return err
	}
	if result.Power != nil {
		return result.Power(ctx)
	}
	if n := len(result.Troubles); n > 0 {
		return fmt.Errorf("%d things could not be done: see /var/log/cloud-init.log", n)
	}
	return nil
}

// cloudInitEnabled tells whether the machine has cloud-init and nobody has turned it off: by its file, the kernel's
// command line, or its generator, which found no cloud.
func cloudInitEnabled(root string) bool {
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, name))
		return err == nil
	}
	if !there("usr/bin/cloud-init") || there("etc/cloud/cloud-init.disabled") || there("run/cloud-init/disabled") {
		return false
	}
	cmdline, _ := os.ReadFile(filepath.Join(root, "proc/cmdline"))
	return !slices.Contains(strings.Fields(string(cmdline)), "cloud-init=disabled")
}

// outputTo starts a process that copies to a file and to our standard output. It lives as long as anybody writes, which may
// be longer than we do: a daemon that a script left behind.
func outputTo(file string) (out *os.File, finish func(), err error) {
	if file == "" {
		return os.Stdout, func() {}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("open a pipe: %w", err)
	}
	cmd := exec.Command("/proc/self/exe", "provision", "-copy", "-output", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	r.Close()
	if err != nil {
		w.Close()
		return nil, nil, fmt.Errorf("start what copies the output: %w", err)
	}
	ended := make(chan struct{})
	go func() { // ends with the copying, or with us
		cmd.Wait()
		close(ended)
	}()
	return w, func() {
		w.Close()
		select {
		case <-ended:
		case <-time.After(time.Second): // others still write
		}
	}, nil
}

// copyOutput copies until nobody writes any more.
func copyOutput(file string) error {
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open the output's log: %w", err)
	}
	buffer := make([]byte, 16<<10)
	for {
		n, err := os.Stdin.Read(buffer)
		log.Write(buffer[:n])
		os.Stdout.Write(buffer[:n]) // a console that is gone does not end the log
		if err != nil {
			return log.Close()
		}
	}
}

// getURL reads what user data include: within bounds of time and size, a few times. Its errors do not show the URL,
// which may have a secret.
func getURL(ctx context.Context, text string) ([]byte, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("only http and https URLs are read")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for wait := time.Second; ; wait *= 2 {
		body, again, err := getOnce(ctx, u)
		if err == nil || !again || wait > 8*time.Second {
			return body, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// getOnce tells whether to ask again after an error.
func getOnce(ctx context.Context, u *url.URL) (body []byte, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, false, errors.New("the URL is malformed")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) {
			err = of.Err
		}
		return nil, true, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, answer.StatusCode >= 500 || answer.StatusCode == 429, fmt.Errorf("HTTP %d", answer.StatusCode)
	}
	body, err = io.ReadAll(io.LimitReader(answer.Body, userdata.MaxUnpacked+1))
	if err == nil && len(body) > userdata.MaxUnpacked {
		return nil, false, userdata.ErrTooLarge
	}
	return body, true, err
}
