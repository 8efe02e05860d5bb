package ec2

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"

	"golang.org/x/crypto/ssh"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// keyNames make the names of an account's key pairs unique.
func keyNames(who cloud.AccountID) store.Kind[cloud.KeyPairID] {
	return store.NewKind[cloud.KeyPairID](store.NamePrefix("key", who))
}

func keyNamed(snap *store.Snapshot, who cloud.AccountID, name string) (store.Object[cloud.KeyPair], error) {
	all, err := store.Mirrored(snap, store.KeyPairs)
	if err != nil {
		return store.Object[cloud.KeyPair]{}, err
	}
	for _, o := range all {
		if o.Value.Account == who && o.Value.Name == name {
			return o, nil
		}
	}
	return store.Object[cloud.KeyPair]{}, cloud.Errorf("InvalidKeyPair.NotFound", "The key pair '%.255s' does not exist", name)
}

// CreateKeyPair makes a key and returns its private half, which is kept nowhere.
func (s *Service) CreateKeyPair(ctx context.Context, in *shape.CreateKeyPairInput) (*shape.CreateKeyPairOutput, error) {
	if in.KeyFormat != "" && in.KeyFormat != "pem" {
		return nil, cloud.Errorf("UnsupportedOperation", "KeyFormat %.10q is not there yet: use pem", in.KeyFormat)
	}
	k := cloud.KeyPair{Type: cmp.Or(in.KeyType, "rsa")}
	var material []byte
	var public any
	switch k.Type {
	case "rsa":
		key, err := rsa.GenerateKey(s.Rand, 2048)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		// EC2's fingerprint of a key that it made: SHA-1 of the private key in PKCS#8 form.
		sum := sha1.Sum(der)
		k.Fingerprint, public = colons(sum[:]), &key.PublicKey
		material = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	case "ed25519":
		pub, key, err := ed25519.GenerateKey(s.Rand)
		if err != nil {
			return nil, err
		}
		block, err := ssh.MarshalPrivateKey(key, in.KeyName)
		if err != nil {
			return nil, err
		}
		public, material = pub, pem.EncodeToMemory(block)
	default:
		return nil, cloud.Errorf("InvalidParameterValue", "KeyType is rsa or ed25519, not %.40q", in.KeyType)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	if err := s.addKey(ctx, &k, key, in.KeyName, in.TagSpecifications, in.DryRun); err != nil {
		return nil, err
	}
	return &shape.CreateKeyPairOutput{KeyName: k.Name, KeyPairId: string(k.ID), KeyFingerprint: k.Fingerprint, KeyMaterial: string(material), Tags: tags(k.Tags)}, nil
}

// ImportKeyPair stores a public key that the caller made, as an authorized_keys line.
func (s *Service) ImportKeyPair(ctx context.Context, in *shape.ImportKeyPairInput) (*shape.ImportKeyPairOutput, error) {
	key, err := parsePublicKey(in.PublicKeyMaterial)
	if err != nil {
		return nil, err
	}
	k := cloud.KeyPair{}
	switch key.Type() {
	case ssh.KeyAlgoRSA:
		k.Type = "rsa"
		// EC2's fingerprint of an imported key: MD5 of the public key in DER form.
		der, err := x509.MarshalPKIXPublicKey(key.(ssh.CryptoPublicKey).CryptoPublicKey())
		if err != nil {
			return nil, err
		}
		sum := md5.Sum(der)
		k.Fingerprint = colons(sum[:])
	case ssh.KeyAlgoED25519:
		k.Type = "ed25519"
	default:
		return nil, cloud.Errorf("InvalidKey.Format", "Keys of type %s are not accepted: use rsa or ed25519", key.Type())
	}
	if err := s.addKey(ctx, &k, key, in.KeyName, in.TagSpecifications, in.DryRun); err != nil {
		return nil, err
	}
	return &shape.ImportKeyPairOutput{KeyName: k.Name, KeyPairId: string(k.ID), KeyFingerprint: k.Fingerprint, Tags: tags(k.Tags)}, nil
}

// parsePublicKey reads an authorized_keys line, or the same in base64 once more, as SDKs send it.
func parsePublicKey(material []byte) (ssh.PublicKey, error) {
	bad := cloud.Errorf("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
	if len(material) > 16<<10 {
		return nil, bad
	}
	text := strings.TrimSpace(string(material))
	if again, err := base64.StdEncoding.DecodeString(text); err == nil && strings.HasPrefix(string(again), "ssh-") {
		text = string(again)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		return nil, bad
	}
	return key, nil
}

func (s *Service) addKey(ctx context.Context, k *cloud.KeyPair, key ssh.PublicKey, name string, spec []shape.TagSpecification, dryRun *bool) error {
	if err := cloud.ValidateKeyName(name); err != nil {
		return err
	}
	specified, err := specifiedTags(spec, "key-pair")
	if err != nil {
		return err
	}
	if k.Type == "ed25519" { // EC2's fingerprint of these, either way: SHA-256 of the public key
		sum := sha256.Sum256(key.Marshal())
		k.Fingerprint = base64.StdEncoding.EncodeToString(sum[:])
	}
	k.ID, k.Account, k.Name, k.Created = newID[cloud.KeyPairID](s, "key"), caller(ctx), name, s.Now().UTC()
	k.PublicKey, k.Tags = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), specified["key-pair"]
	return s.commit(ctx, dryRun, func(_ *store.Snapshot, t *store.Txn) error {
		if _, err := store.Get(ctx, s.Store, keyNames(k.Account), name); err == nil {
			return cloud.Errorf("InvalidKeyPair.Duplicate", "The keypair '%s' already exists.", name)
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		store.Create(t, keyNames(k.Account), name, k.ID)
		store.Create(t, store.KeyPairs, k.ID, *k)
		return nil
	})
}

// DeleteKeyPair removes a key pair by name or ID. Removing what is not there is a success, as in EC2.
func (s *Service) DeleteKeyPair(ctx context.Context, in *shape.DeleteKeyPairInput) (*shape.DeleteKeyPairOutput, error) {
	if (in.KeyName == "") == (in.KeyPairId == "") {
		return nil, cloud.Errorf("MissingParameter", "The request must contain either KeyName or KeyPairId")
	}
	out := &shape.DeleteKeyPairOutput{Return: ptr(true)}
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		var o store.Object[cloud.KeyPair]
		var err error
		if in.KeyPairId != "" {
			o, err = find(snap, store.KeyPairs, cloud.KeyPairID(in.KeyPairId), caller(ctx), aKeyPair)
		} else {
			o, err = keyNamed(snap, caller(ctx), in.KeyName)
		}
		if cloud.Code(err) == "InvalidKeyPair.NotFound" {
			return nil
		}
		if err != nil {
			return err
		}
		out.KeyPairId = string(o.Value.ID)
		store.Delete(t, store.KeyPairs, o)
		store.Remove(t, keyNames(o.Value.Account), o.Value.Name)
		return nil
	})
	return out, err
}

var keyFields = fields[shape.KeyPairInfo]{
	"key-name":    func(k shape.KeyPairInfo) []string { return one(k.KeyName) },
	"key-pair-id": func(k shape.KeyPairInfo) []string { return one(k.KeyPairId) },
	"fingerprint": func(k shape.KeyPairInfo) []string { return one(k.KeyFingerprint) },
}

// DescribeKeyPairs shows key pairs.
func (s *Service) DescribeKeyPairs(ctx context.Context, in *shape.DescribeKeyPairsInput) (*shape.DescribeKeyPairsOutput, error) {
	who := caller(ctx)
	q := query[shape.KeyPairInfo]{in: in, filters: in.Filters, fields: keyFields, id: func(k shape.KeyPairInfo) string { return k.KeyName },
		tags: func(k shape.KeyPairInfo) []shape.Tag { return k.Tags }}
	page, _, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.KeyPairInfo, error) {
		var list []cloud.KeyPair
		for _, name := range in.KeyNames {
			o, err := keyNamed(snap, who, name)
			if err != nil {
				return nil, err
			}
			list = append(list, o.Value)
		}
		for _, id := range in.KeyPairIds {
			o, err := find(snap, store.KeyPairs, cloud.KeyPairID(id), who, aKeyPair)
			if err != nil {
				return nil, err
			}
			list = append(list, o.Value)
		}
		if len(in.KeyNames)+len(in.KeyPairIds) == 0 {
			all, err := store.Mirrored(snap, store.KeyPairs)
			if err != nil {
				return nil, err
			}
			for _, o := range all {
				if o.Value.Account == who {
					list = append(list, o.Value)
				}
			}
		}
		var out []shape.KeyPairInfo
		for _, k := range list {
			info := shape.KeyPairInfo{KeyName: k.Name, KeyPairId: string(k.ID), KeyFingerprint: k.Fingerprint, KeyType: k.Type, CreateTime: &k.Created, Tags: tags(k.Tags)}
			if yes(in.IncludePublicKey) {
				info.PublicKey = k.PublicKey + " " + k.Name + "\n"
			}
			out = append(out, info)
		}
		return out, nil
	})
	return &shape.DescribeKeyPairsOutput{KeyPairs: page}, err
}

// colons writes bytes as ssh and EC2 show fingerprints.
func colons(b []byte) string {
	parts := make([]string, len(b))
	for i := range b {
		parts[i] = hex.EncodeToString(b[i : i+1])
	}
	return strings.Join(parts, ":")
}
