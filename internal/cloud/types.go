package cloud

// InstanceType bounds what an instance may have.
type InstanceType struct {
	Name            string
	VCPUs           int
	MemoryMiB       int
	Interfaces      int // the most network interfaces
	Addresses       int // the most private IPv4 addresses on each
	BandwidthMbit   int // that lasts, in each direction; zero: as much as the host has
	PeakMbit        int // while what was saved lasts
	EphemeralDisks  int
	EphemeralGiB    int
	Virtualizations []string
	Burstable       bool
}

// Types is the built-in table: names and sizes as EC2 documents them.
var Types = []InstanceType{
	{"t2.nano", 1, 512, 2, 2, 32, 1024, 0, 0, both, true},
	{"t2.micro", 1, 1024, 2, 2, 64, 1024, 0, 0, both, true},
	{"t2.small", 1, 2048, 3, 4, 128, 1024, 0, 0, both, true},
	{"t2.medium", 2, 4096, 3, 6, 256, 1024, 0, 0, both, true},
	{"t3.nano", 2, 512, 2, 2, 32, 5000, 0, 0, both, true},
	{"t3.micro", 2, 1024, 2, 2, 64, 5000, 0, 0, both, true},
	{"t3.small", 2, 2048, 3, 4, 128, 5000, 0, 0, both, true},
	{"t3.medium", 2, 4096, 3, 6, 256, 5000, 0, 0, both, true},
	{"t3.large", 2, 8192, 3, 12, 512, 5000, 0, 0, both, true},
	{"m3.medium", 1, 3840, 2, 6, 300, 300, 1, 4, both, false},
	{"m3.large", 2, 7680, 3, 10, 700, 700, 1, 32, both, false},
	{"m5.large", 2, 8192, 3, 10, 750, 10000, 0, 0, hvm, false},
	{"m5.xlarge", 4, 16384, 4, 15, 1250, 10000, 0, 0, hvm, false},
	{"m5.2xlarge", 8, 32768, 4, 15, 2500, 10000, 0, 0, hvm, false},
	{"c5.large", 2, 4096, 3, 10, 750, 10000, 0, 0, hvm, false},
	{"c5.xlarge", 4, 8192, 4, 15, 1250, 10000, 0, 0, hvm, false},
}

var (
	both = []string{"hvm", "paravirtual"}
	hvm  = []string{"hvm"}
)

// Supports reports whether instances of this type can boot images of the virtualization type.
func (t InstanceType) Supports(virtualization string) bool {
	for _, v := range t.Virtualizations {
		if v == virtualization {
			return true
		}
	}
	return false
}

// TypeNamed returns the type of that name.
func TypeNamed(types []InstanceType, name string) (InstanceType, error) {
	for _, t := range types {
		if t.Name == name {
			return t, nil
		}
	}
	return InstanceType{}, Errorf("InvalidParameterValue", "Invalid value '%.40s' for InstanceType: see describe-instance-types for those that exist", name)
}
