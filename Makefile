# ichiro. `make help` says what can be made.
GO       ?= go
PROGRAMS  = ichiro:deploy ichiro-control:control ichiro-agent:agent ichiro-shim:hypervisor-shim ichiro-imds:imds \
            ichiro-gateway:runcmd/gateway ichiro-initramfs:initramfs

all: build ## all programs into bin/, reproducible

build:
	@mkdir -p bin
	@for p in $(PROGRAMS); do $(GO) build -trimpath -o bin/$${p%%:*} ./$${p#*:} || exit 1; done

check: fmt vet lint arch unit ## gofmt, vet, staticcheck, the plan of the house, unit tests with -race; no root

fmt:
	@bad=$$(gofmt -l $$($(GO) list -e -f '{{.Dir}}' ./...)); test -z "$$bad" || { echo "not gofmt'ed:" $$bad; exit 1; }

vet:
	$(GO) vet -tags net,vm ./...

lint:
	$(GO) run honnef.co/go/tools/cmd/staticcheck -tags net,vm ./...

arch: ## only the plan of the house, with its warnings
	$(GO) test -count=1 ./internal/arch

unit:
	$(GO) test -race ./...

net: ## tests in network namespaces (root)
	$(GO) test -tags net ./...

vm: ## tests with guests in QEMU
	$(GO) test -tags vm ./...

help: ## this
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile

.PHONY: all build check fmt vet lint arch unit net vm help
