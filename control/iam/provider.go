package iam

import (
	"context"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Provider is an issuer of web identities that trust policies may name, and for whom it may speak here.
type Provider struct {
	URL         string // without its scheme: what its ARN and its condition keys begin with
	ARN         string
	Created     time.Time
	Clients     []string `json:",omitempty"` // audiences
	Thumbprints []string `json:",omitempty"` // kept for those who ask; no TLS lies between us and the keys
	Tags        []Tag    `json:",omitempty"`
}

var providers = newTable[Provider]("provider")

// Quotas of a provider.
const (
	maxClients     = 100
	maxClient      = 255
	maxThumbprints = 5
)

var thumbprint = regexp.MustCompile(`^[0-9A-Fa-f]{40}$`)

// issuerName returns a URL as providers are named by it.
func issuerName(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || len(text) > maxClient {
		return "", cloud.Errorf("InvalidInput", "Invalid Open ID Connect Provider URL")
	}
	return strings.TrimSuffix(u.Host+u.EscapedPath(), "/"), nil
}

func (e *Engine) providerARN(name string) string { return e.arn("oidc-provider/" + name) }

// CreateProvider makes an issuer known to trust policies. Of p, URL (whole), Clients, Thumbprints and Tags are the wish.
func (e *Engine) CreateProvider(ctx context.Context, p Provider) (Provider, error) {
	whole := p.URL
	var err error
	if p.URL, err = issuerName(whole); err != nil {
		return Provider{}, err
	}
	if err := p.check(); err != nil {
		return Provider{}, err
	}
	if p.Tags, err = mergeTags(nil, p.Tags); err != nil {
		return Provider{}, err
	}
	p.ARN, p.Created = e.providerARN(p.URL), e.now()
	return p, e.change(ctx, func(t *tx) error {
		have, err := providers.get(t, p.URL)
		if err != nil {
			return err
		}
		if have != nil {
			return cloud.Errorf("EntityAlreadyExists", "Provider with url %s already exists.", whole)
		}
		return providers.put(t, p.URL, &p)
	})
}

func (p Provider) check() error {
	if len(p.Clients) > maxClients {
		return cloud.Errorf("LimitExceeded", "Cannot exceed quota for ClientIdsPerOpenIdConnectProvider: %d", maxClients)
	}
	for _, id := range p.Clients {
		if id == "" || len(id) > maxClient {
			return cloud.Errorf("InvalidInput", "ClientId must have 1 to %d characters", maxClient)
		}
	}
	if len(p.Thumbprints) > maxThumbprints {
		return cloud.Errorf("InvalidInput", "Thumbprint list must contain fewer than %d entries.", maxThumbprints+1)
	}
	for _, text := range p.Thumbprints {
		if !thumbprint.MatchString(text) {
			return cloud.Errorf("InvalidInput", "Thumbprint must be the SHA-1 of a certificate in 40 hexadecimal digits")
		}
	}
	return nil
}

// Provider returns an issuer by its ARN.
func (e *Engine) Provider(arn string) (Provider, error) {
	if p := providers.look(e, e.providerName(arn)); p != nil {
		return *p, nil
	}
	return Provider{}, noProvider(arn)
}

// Providers lists the issuers, by name.
func (e *Engine) Providers() []Provider {
	return providers.list(e, func(*Provider) bool { return true })
}

// DeleteProvider removes an issuer; that there is none is no error. Trust policies go on naming it in vain, and the sessions
// that it was used for live to their end: delete their role, or revoke them, if they must not.
func (e *Engine) DeleteProvider(ctx context.Context, arn string) error {
	return e.change(ctx, func(t *tx) error { return providers.drop(t, e.providerName(arn)) })
}

// AddClient lets a provider speak to one audience more. Twice is once.
func (e *Engine) AddClient(ctx context.Context, arn, id string) error {
	return e.editProvider(ctx, arn, func(p *Provider) {
		if !slices.Contains(p.Clients, id) {
			p.Clients = append(slices.Clone(p.Clients), id)
		}
	})
}

// RemoveClient takes an audience away; that it was none is no error.
func (e *Engine) RemoveClient(ctx context.Context, arn, id string) error {
	return e.editProvider(ctx, arn, func(p *Provider) { p.Clients, _ = remove(p.Clients, id) })
}

// SetThumbprints replaces what is kept of the issuer's certificates.
func (e *Engine) SetThumbprints(ctx context.Context, arn string, list []string) error {
	return e.editProvider(ctx, arn, func(p *Provider) { p.Thumbprints = list })
}

func (e *Engine) editProvider(ctx context.Context, arn string, edit func(*Provider)) error {
	return e.change(ctx, func(t *tx) error {
		p, err := providers.get(t, e.providerName(arn))
		if err != nil {
			return err
		}
		if p == nil {
			return noProvider(arn)
		}
		edit(p)
		if err := p.check(); err != nil {
			return err
		}
		return providers.put(t, p.URL, p)
	})
}

// providerName is the name in an ARN, "" for what is no ARN of a provider here.
func (e *Engine) providerName(arn string) string {
	name, ok := strings.CutPrefix(arn, e.providerARN(""))
	if !ok {
		return ""
	}
	return name
}

func noProvider(arn string) error { return noSuch("OpenIDConnect Provider not found for arn %s", arn) }
