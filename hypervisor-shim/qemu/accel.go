package qemu

import (
	"errors"
	"fmt"
	"os"
	"regexp"
)

// Choose returns the accelerator for the wish auto, kvm or tcg. A /dev/kvm that opens proves little:
// on some virtual hosts it is there, without the processor's extensions, and hangs stock guests.
func Choose(wish string) (Accel, error) {
	switch wish {
	case "tcg":
		return TCG, nil
	case "kvm", "auto":
		err := kvmWorks()
		if err == nil {
			return KVM, nil
		}
		if wish == "kvm" {
			return "", fmt.Errorf("use KVM: %w", err)
		}
		return TCG, nil
	}
	return "", fmt.Errorf("accelerator %q: give auto, kvm or tcg", wish)
}

var virtualization = regexp.MustCompile(`(?m)^flags\s*:.*\s(vmx|svm)(\s|$)`)

func kvmWorks() error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	f.Close()
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	if !virtualization.Match(info) {
		return errors.New("/proc/cpuinfo shows neither vmx nor svm")
	}
	return nil
}
