# ichiro. `make help` says what can be made.
GO       ?= $(shell deploy/scripts/go)
PROGRAMS  = ichiro:deploy ichiro-control:control ichiro-agent:agent ichiro-shim:hypervisor-shim ichiro-imds:imds \
            ichiro-gateway:runcmd/gateway ichiro-s3:deploy/s3 ichiro-initramfs:initramfs ichiro-runcmd:runcmd ichiro-session:runcmd/client init:initramfs/init
COUNT     = $(GO) run ./deploy/count
export GOFLAGS += -buildvcs=false

build: ## all programs into bin/, reproducible
	@mkdir -p bin
	@for p in $(PROGRAMS); do CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w -buildid=' -o bin/$${p%%:*} ./$${p#*:} || exit 1; done

demo: needs-run build ## installs what is missing, boots a guest, runs a command in it, cleans up
	@deploy/scripts/demo

run: needs-run build ## the same host, left running in the foreground; Ctrl-C stops it and cleans up
	@deploy/scripts/run

test: needs-test ## everything: check, net, and vm beside walk, which wait for their guests; each with its count
	@$(MAKE) --no-print-directory check net && $(MAKE) --no-print-directory -j 2 vm walk && $(COUNT) total

check: fmt vet lint generated arch unit ## gofmt, vet, staticcheck, generated code, the plan, unit tests with -race; no root

fmt:
	@bad=$$(gofmt -l $$($(GO) list -e -f '{{.Dir}}' ./...)); test -z "$$bad" || { echo "not gofmt'ed:" $$bad; exit 1; }

vet:
	$(GO) vet -tags net,vm,walk,bench ./...

lint:
	$(GO) tool staticcheck -tags net,vm,walk,bench ./...

generated:
	$(GO) run ./control/api/shape/gen -check

arch: ## only the plan of the house, with its warnings
	$(GO) test -count=1 ./internal/arch

unit:
	@$(COUNT) unit $(GO) test -race -timeout 20m ./...

net: ## tests in network namespaces (root)
	@$(COUNT) net $(GO) test -count=1 -tags net -p 2 -timeout 20m $$(deploy/scripts/tagged net)

vm: build ## tests with guests in QEMU (root)
	@ICHIRO_BUILT=$(CURDIR)/bin $(COUNT) vm $(GO) test -count=1 -tags vm -p 1 -timeout 25m $$(deploy/scripts/tagged vm)

walk: build ## the walkthrough's scripts, with the AWS CLI (root)
	@ICHIRO_BUILT=$(CURDIR)/bin $(COUNT) walk $(GO) test -count=1 -tags walk -p 1 -timeout 20m $$(deploy/scripts/tagged walk)

debian: needs-test build ## a whole Debian 12 guest with stock cloud-init (root): five minutes, so not in test
	@ICHIRO_DEBIAN=1 $(COUNT) debian $(GO) test -count=1 -tags vm -timeout 25m -run TestDebian ./deploy/e2e

faults: needs-test build ## the long test of crashes: 2,412 of them in three quarters of an hour (root)
	ICHIRO_FAULTS=75 $(GO) test -count=1 -timeout 1h -run AtAnyMoment -v ./runcmd
	ICHIRO_FAULTS=3 $(GO) test -count=1 -timeout 1h -run EachPoint -v ./runcmd
	ICHIRO_FAULTS=60 ICHIRO_BUILT=$(CURDIR)/bin $(GO) test -count=1 -timeout 1h -tags vm -run TestCommandsWhileTheHostAgentIsKilled -v ./deploy/e2e

bench: needs-bench build ## every figure: name, ours, reference, ratio, target, met; JSON lines into $$BENCH_OUT
	@$(GO) run ./deploy/bench --bin bin

fresh: ## proves demo and test in a newly bootstrapped Debian 12 without Go (root, systemd-nspawn)
	@deploy/scripts/fresh

needs-run needs-test needs-bench:
	@deploy/scripts/needs $(@:needs-%=%)

deb rpm lab: ## not there yet
	@echo "make $@ is not there yet"; exit 1

help: ## this
	@sed -n 's/^\([a-z ]*\):[^#]*## /\1\t/p' Makefile | expand -t 14

.DEFAULT_GOAL = build
.PHONY: build demo run test check fmt vet lint generated arch unit net vm walk debian faults bench fresh needs-run needs-test needs-bench deb rpm lab help
