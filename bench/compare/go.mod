module lastcall/bench/compare

go 1.26

toolchain go1.26.11

require (
	github.com/cloudflare/tableflip v1.2.3
	github.com/oklog/run v1.2.0
	github.com/ory/graceful v0.1.3
	lastcall v0.0.0
)

require (
	github.com/cenkalti/backoff/v5 v5.0.3 // indirect
	github.com/coreos/go-systemd/v22 v22.7.0 // indirect
	github.com/go-kit/log v0.2.1 // indirect
	github.com/go-logfmt/logfmt v0.5.1 // indirect
	github.com/netresearch/go-cron v0.9.1 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	golang.org/x/net v0.58.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/text v0.41.0 // indirect
)

replace lastcall => ../..
