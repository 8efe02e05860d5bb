package cloud

import "time"

// KeyPair is the public half of a key that instances let in; the private half is never kept.
type KeyPair struct {
	ID          KeyPairID
	Account     AccountID
	Name        string
	Type        string // rsa | ed25519
	Fingerprint string
	PublicKey   string // one authorized_keys line without comment
	Created     time.Time
	Tags        Tags `json:",omitempty"`
}

// ValidateKeyName applies EC2's rule: 1 to 255 printable ASCII characters.
func ValidateKeyName(name string) error {
	if name == "" || len(name) > 255 {
		return Errorf("InvalidParameterValue", "a key pair's name must have 1 to 255 characters")
	}
	for _, c := range name {
		if c < ' ' || c > '~' {
			return Errorf("InvalidParameterValue", "key pair name %.40q must have only printable ASCII characters", name)
		}
	}
	return nil
}
