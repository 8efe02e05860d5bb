package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ichiro-metal/ichiro/internal/fetch"
)

// apiEndpoint is where a guest reaches the API, the object store with it.
const apiEndpoint = "http://169.254.169.254:8773"

// awsConfig tells AWS's clients, the CLI and the SDKs, where the API is and in which region, unless somebody has told them
// something. The credentials they find by themselves, in the metadata.
func awsConfig(ctx context.Context, home string) error {
	path := filepath.Join(home, ".aws", "config")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c := fetch.Client{Server: imds}
	token, err := c.Do(ctx, fetch.Request{Method: "PUT", Path: "/latest/api/token",
		Header: map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "60"}})
	if err != nil {
		return fmt.Errorf("ask for the region: %w", err)
	}
	const where = "/latest/meta-data/placement/region"
	region, err := c.Do(ctx, fetch.Request{Method: "GET", Path: where,
		Header: map[string]string{"X-aws-ec2-metadata-token": string(token[0].Body)}})
	if err != nil {
		return fmt.Errorf("ask for the region: %w", err)
	}
	if region[0].Status != 200 {
		return refusal{where, region[0].Status}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("[default]\nregion = %s\nendpoint_url = %s\n", safe(string(region[0].Body)), apiEndpoint)
	return os.WriteFile(path, []byte(text), 0o644)
}
