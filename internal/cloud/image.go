package cloud

import (
	"regexp"
	"strings"
	"sync"
	"time"
)

// Image describes how a virtual machine begins: a machine image (ami-), or the kernel (aki-) or ramdisk
// (ari-) that a paravirtual one is booted with.
type Image struct {
	ID             ImageID
	Account        AccountID
	Name           string
	Description    string    `json:",omitempty"`
	Location       string    // of kernels and ramdisks: the file in the host's image pool
	Kind           ImageKind // machine, kernel, ramdisk
	Architecture   string    // x86_64
	Virtualization string    // paravirtual | hvm
	Kernel         ImageID   `json:",omitempty"`
	Ramdisk        ImageID   `json:",omitempty"`
	RootDeviceName string    `json:",omitempty"`
	RootDeviceType string    // ebs | instance-store
	CommandLine    string    `json:",omitempty"` // what a paravirtual image adds to the kernel's command line
	IMDSSupport    string    `json:",omitempty"` // v2.0: instances want tokens unless somebody says otherwise
	Public         bool      `json:",omitempty"`
	Created        time.Time
	Tags           Tags `json:",omitempty"`
}

// DefaultCommandLine is what a kernel is told by images that nobody gave a command line, which a request cannot: the console is the
// one that get-console-output shows, a panic is a restart, and a virtual machine need not check its clocks.
const DefaultCommandLine = "console=ttyS0 panic=1 no_timer_check tsc=reliable random.trust_cpu=on"

// ImageKind is EC2's ImageType.
type ImageKind string

// The kinds of image.
const (
	ImageMachine ImageKind = "machine"
	ImageKernel  ImageKind = "kernel"
	ImageRamdisk ImageKind = "ramdisk"
)

// Prefix returns the prefix of identifiers of this kind.
func (k ImageKind) Prefix() string {
	switch k {
	case ImageKernel:
		return "aki"
	case ImageRamdisk:
		return "ari"
	}
	return "ami"
}

// poolFile is the name of a file in the image pool: the SHA-256 of its bytes and what it is. A location
// never names any other file of a host.
var poolFile = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}\.(kernel|ramdisk)$`) })

// KindOfLocation returns what a pool file is, or an error for anything that is not the name of one.
func KindOfLocation(location string) (ImageKind, error) {
	if !poolFile().MatchString(location) {
		return "", Errorf("InvalidParameterValue", "ImageLocation must name a file of the image pool, <sha256>.kernel or <sha256>.ramdisk: put one there with `ichiro image add kernel|ramdisk FILE`")
	}
	return ImageKind(location[strings.IndexByte(location, '.')+1:]), nil
}

// imageName says nothing of the length: {3,128} would be 390 KB of every program that asks.
var imageName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9()\[\] ./\-'@_]+$`) })

// ValidateImageName applies EC2's rule for names of images.
func ValidateImageName(name string) error {
	if len(name) < 3 || len(name) > 128 || !imageName().MatchString(name) {
		return Errorf("InvalidAMIName.Malformed", "AMI name %.40q must have 3 to 128 of: letters, numbers, '(', ')', '.', '-', '/', '_', '@', \"'\", '[', ']' and spaces", name)
	}
	return nil
}
