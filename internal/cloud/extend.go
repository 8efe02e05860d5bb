package cloud

import "slices"

// Extend returns the types with others added; one of the same name takes the place of the built-in one.
func Extend(types, more []InstanceType) ([]InstanceType, error) {
	out := slices.Clone(types)
	for _, t := range more {
		if t.Name == "" || t.VCPUs < 1 || t.MemoryMiB < 64 || t.Interfaces < 1 || t.Addresses < 1 || len(t.Virtualizations) == 0 {
			return nil, Errorf("InvalidParameterValue", "instance type %q needs Name, VCPUs, MemoryMiB (at least 64), Interfaces, Addresses and Virtualizations", t.Name)
		}
		k := slices.IndexFunc(out, func(o InstanceType) bool { return o.Name == t.Name })
		if k < 0 {
			out = append(out, t)
		} else {
			out[k] = t
		}
	}
	return out, nil
}
