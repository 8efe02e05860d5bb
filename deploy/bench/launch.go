package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

const (
	launchPairs = 9
	userData    = "#!/bin/sh\necho hello > /run/hello\n"

	initLine     = "ichiro: init at"                    // the first line of our init
	finishedLine = "ichiro: user-data finished rc=0 at" // its line when the script has ended
)

// launch compares RunInstances with the QEMU that it starts: the same kernel, ramdisk, command line and
// machine, started by itself and without a network, until the first line of its init.
func (b *bench) launch(ctx context.Context) error {
	h, err := b.running(ctx)
	if err != nil {
		return err
	}
	image, err := h.image(ctx)
	if err != nil {
		return err
	}
	f := figure{Name: "RunInstances accepted to user-data finished, against bare QEMU to init", Unit: "s", Target: 1.35}
	var answered, toInit, guests, daemons, alone []float64
	for range launchPairs {
		before, err := h.used()
		if err != nil {
			return err
		}
		if err := warm(); err != nil {
			return err
		}
		g, err := h.start(ctx, image, userData)
		if err != nil {
			return err
		}
		init, err := h.console(ctx, g.id, initLine)
		if err != nil {
			return err
		}
		done, err := h.console(ctx, g.id, finishedLine)
		if err != nil {
			return err
		}
		after, err := h.used()
		if err != nil {
			return err
		}
		machine, used, err := h.machine(g.id)
		if err != nil {
			return err
		}
		if err := h.agent(ctx, g.id); err != nil { // by then the guest hears its power button
			return err
		}
		if err := h.terminate(ctx, g.id); err != nil {
			return err
		}
		bare, reference, err := b.boot(ctx, machine, initLine)
		if err != nil {
			return err
		}
		f.OursRaw, f.RefRaw = append(f.OursRaw, done.Sub(g.accepted).Seconds()), append(f.RefRaw, bare.Seconds())
		answered, toInit = append(answered, g.accepted.Sub(g.sent).Seconds()), append(toInit, init.Sub(g.accepted).Seconds())
		guests, alone = append(guests, used.Seconds()), append(alone, reference.Seconds())
		var sum time.Duration
		for name := range after {
			sum += after[name] - before[name]
		}
		daemons = append(daemons, sum.Seconds())
		b.log.Info("pair", "ours", number(f.OursRaw[len(f.OursRaw)-1]), "to init", number(toInit[len(toInit)-1]), "bare", number(bare.Seconds()))
	}
	f.Note = fmt.Sprintf("of ours, to init %s s; RunInstances itself took %s s before; processor time: ours %s s of QEMU and %s s of the daemons, bare QEMU %s s",
		number(median(toInit)), number(median(answered)), number(median(guests)), number(median(daemons)), number(median(alone)))
	b.compare(f)
	return nil
}

// guest is an instance that was asked for.
type guest struct {
	id             cloud.InstanceID
	sent, accepted time.Time
}

func (h *host) start(ctx context.Context, image, data string) (guest, error) {
	return h.startAs(ctx, types.InstanceTypeT2Nano, image, data)
}

func (h *host) startAs(ctx context.Context, as types.InstanceType, image, data string) (guest, error) {
	in := &ec2.RunInstancesInput{
		ImageId: &image, InstanceType: as, MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		UserData: aws.String(base64.StdEncoding.EncodeToString([]byte(data))),
	}
	g := guest{sent: time.Now()}
	out, err := h.ec2.RunInstances(ctx, in)
	g.accepted = time.Now()
	if err != nil {
		return g, err
	}
	g.id = cloud.InstanceID(aws.ToString(out.Instances[0].InstanceId))
	return g, nil
}

func (h *host) terminate(ctx context.Context, id cloud.InstanceID) error {
	_, err := h.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{string(id)}})
	if err != nil {
		return err
	}
	dir := string(bundle.Root(h.run).Instance(id))
	return until(ctx, h, 20*time.Millisecond, func() (bool, error) {
		_, err := os.Stat(dir)
		return errors.Is(err, fs.ErrNotExist), nil
	})
}

// console returns when a line appeared on the console of an instance.
func (h *host) console(ctx context.Context, id cloud.InstanceID, line string) (time.Time, error) {
	path := bundle.Root(h.run).Instance(id).Path("console.log")
	return appears(ctx, h, path, line)
}

// appears returns when a line was first seen in a file that need not exist yet.
func appears(ctx context.Context, h *host, path, line string) (at time.Time, err error) {
	err = until(ctx, h, tick, func() (bool, error) {
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		at = time.Now()
		return bytes.Contains(data, []byte(line)), nil
	})
	return at, err
}

// machine is a QEMU command line by itself: arguments, kernel and ramdisk.
type machine struct {
	args            []string
	kernel, ramdisk string
}

// tied tells the options of a guest's QEMU that tie it to its host: its monitor, its wire and its port.
func tied(option, value string) bool {
	switch option {
	case "-chardev":
		return strings.HasPrefix(value, "socket,")
	case "-device":
		return strings.HasPrefix(value, "virtio-net") || strings.HasPrefix(value, "virtserialport")
	}
	return option == "-mon" || option == "-netdev"
}

// machine takes the arguments of an instance's QEMU and frees them of what ties it to its host. It also
// returns the processor time that this QEMU has used.
func (h *host) machine(id cloud.InstanceID) (m machine, used time.Duration, err error) {
	st, err := shim.ReadStatus(string(bundle.Root(h.run).Instance(id)))
	if err != nil {
		return m, 0, err
	}
	if used, err = cpu(st.QEMU.PID); err != nil {
		return m, 0, err
	}
	proc := fmt.Sprintf("/proc/%d", st.QEMU.PID)
	line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return m, 0, err
	}
	args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	for i := 0; i < len(args); i++ {
		option, value := args[i], ""
		if i+1 < len(args) {
			value = args[i+1]
		}
		switch {
		case tied(option, value):
			i++
		case option == "-kernel", option == "-initrd":
			// /proc/self/fd/N there is a file that has a name here.
			name, err := os.Readlink(strings.Replace(value, "/proc/self", proc, 1))
			if err != nil {
				return m, 0, err
			}
			if option == "-kernel" {
				m.kernel = name
			} else {
				m.ramdisk = name
			}
			i++
		default:
			m.args = append(m.args, option)
		}
	}
	if m.kernel == "" || m.ramdisk == "" {
		return m, 0, fmt.Errorf("QEMU of %s has no kernel or no ramdisk: %q", id, args)
	}
	return m, used, nil
}

// boot runs a machine by itself and returns the time from its start to the line on its console, to which
// it writes as the instance's does: by a file that it inherits as number 3. used is its processor time.
func (b *bench) boot(ctx context.Context, m machine, line string) (took, used time.Duration, err error) {
	path := filepath.Join(b.dir, "console")
	console, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer console.Close()
	cmd := exec.Command(m.args[0], append(slices.Clone(m.args[1:]), "-kernel", m.kernel, "-initrd", m.ramdisk)...)
	cmd.ExtraFiles = []*os.File{console}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	// A session of its own, as an instance's has: the scheduler's autogroups share out the processor by session.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if err := warm(); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	defer func() { cmd.Process.Kill(); <-ended }()
	var at time.Time
	found := make(chan error, 1)
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		var err error
		at, err = appears(waiting, nil, path, line)
		found <- err
	}()
	select {
	case err := <-found:
		if err == nil {
			used, err = cpu(cmd.Process.Pid)
		}
		return at.Sub(began), used, err
	case <-ended:
		cancel()
		<-found
		return 0, 0, fmt.Errorf("QEMU ended before %q was on its console: %s", line, said.Bytes())
	}
}
