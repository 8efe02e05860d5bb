package iam

import (
	"context"
	"strings"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/iam"
	engine "github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func (s *service) providerActions() []api.Action {
	return []api.Action{
		do(s, "CreateOpenIDConnectProvider", s.createProvider, func(s *service, in *shape.CreateOpenIDConnectProviderInput) string {
			_, name, _ := strings.Cut(in.Url, "://")
			return s.new("oidc-provider", "/", strings.TrimSuffix(name, "/"))
		}),
		read(s, "GetOpenIDConnectProvider", s.getProvider, func(_ *service, in *shape.GetOpenIDConnectProviderInput) string { return in.OpenIDConnectProviderArn }),
		read(s, "ListOpenIDConnectProviders", s.listProviders, nil),
		do(s, "DeleteOpenIDConnectProvider", s.deleteProvider, func(_ *service, in *shape.DeleteOpenIDConnectProviderInput) string {
			return in.OpenIDConnectProviderArn
		}),
		do(s, "AddClientIDToOpenIDConnectProvider", s.addClient, func(_ *service, in *shape.AddClientIDToOpenIDConnectProviderInput) string {
			return in.OpenIDConnectProviderArn
		}),
		do(s, "RemoveClientIDFromOpenIDConnectProvider", s.removeClient, func(_ *service, in *shape.RemoveClientIDFromOpenIDConnectProviderInput) string {
			return in.OpenIDConnectProviderArn
		}),
		do(s, "UpdateOpenIDConnectProviderThumbprint", s.updateThumbprint, func(_ *service, in *shape.UpdateOpenIDConnectProviderThumbprintInput) string {
			return in.OpenIDConnectProviderArn
		}),
	}
}

// createProvider takes the one issuer whose keys are known here: this cloud itself.
func (s *service) createProvider(ctx context.Context, _ *engine.Principal, in *shape.CreateOpenIDConnectProviderInput) (*shape.CreateOpenIDConnectProviderOutput, error) {
	if strings.TrimSuffix(in.Url, "/") != s.issuer {
		return nil, cloud.Errorf("InvalidInput", "Only the tokens of this cloud's own instances can be trusted: the URL of their issuer is %s", s.issuer)
	}
	p, err := s.engine.CreateProvider(ctx, engine.Provider{URL: in.Url, Clients: in.ClientIDList, Thumbprints: in.ThumbprintList, Tags: toTags(in.Tags)})
	return &shape.CreateOpenIDConnectProviderOutput{OpenIDConnectProviderArn: p.ARN, Tags: ofTags(p.Tags)}, err
}

func (s *service) getProvider(_ context.Context, _ *engine.Principal, in *shape.GetOpenIDConnectProviderInput) (*shape.GetOpenIDConnectProviderOutput, error) {
	p, err := s.engine.Provider(in.OpenIDConnectProviderArn)
	return &shape.GetOpenIDConnectProviderOutput{Url: p.URL, ClientIDList: p.Clients, ThumbprintList: p.Thumbprints, CreateDate: at(p.Created), Tags: ofTags(p.Tags)}, err
}

func (s *service) listProviders(context.Context, *engine.Principal, *shape.ListOpenIDConnectProvidersInput) (*shape.ListOpenIDConnectProvidersOutput, error) {
	return &shape.ListOpenIDConnectProvidersOutput{OpenIDConnectProviderList: each(s.engine.Providers(), func(p engine.Provider) shape.OpenIDConnectProviderListEntry {
		return shape.OpenIDConnectProviderListEntry{Arn: p.ARN}
	})}, nil
}

func (s *service) deleteProvider(ctx context.Context, _ *engine.Principal, in *shape.DeleteOpenIDConnectProviderInput) (*shape.DeleteOpenIDConnectProviderOutput, error) {
	return nil, s.engine.DeleteProvider(ctx, in.OpenIDConnectProviderArn)
}

func (s *service) addClient(ctx context.Context, _ *engine.Principal, in *shape.AddClientIDToOpenIDConnectProviderInput) (*shape.AddClientIDToOpenIDConnectProviderOutput, error) {
	return nil, s.engine.AddClient(ctx, in.OpenIDConnectProviderArn, in.ClientID)
}

func (s *service) removeClient(ctx context.Context, _ *engine.Principal, in *shape.RemoveClientIDFromOpenIDConnectProviderInput) (*shape.RemoveClientIDFromOpenIDConnectProviderOutput, error) {
	return nil, s.engine.RemoveClient(ctx, in.OpenIDConnectProviderArn, in.ClientID)
}

func (s *service) updateThumbprint(ctx context.Context, _ *engine.Principal, in *shape.UpdateOpenIDConnectProviderThumbprintInput) (*shape.UpdateOpenIDConnectProviderThumbprintOutput, error) {
	return nil, s.engine.SetThumbprints(ctx, in.OpenIDConnectProviderArn, in.ThumbprintList)
}
