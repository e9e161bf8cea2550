package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// EndpointEnv names the variable that says where the runtime listens, as for crictl.
const EndpointEnv = "CONTAINER_RUNTIME_ENDPOINT"

// ErrNoRuntime says that no runtime listens at any of the usual places.
var ErrNoRuntime = errors.New("no container runtime was found; cure: " + EndpointEnv + "=unix:///path/to/cri.sock")

// usualSockets are where runtimes listen unless told otherwise: the first three are those
// the kubelet's own tools know (crictl, kubeadm), then k3s and RKE2, k0s, MicroK8s.
func usualSockets() []string {
	return []string{
		"/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/cri-dockerd.sock",
		"/run/k3s/containerd/containerd.sock", "/run/k0s/containerd.sock",
		"/var/snap/microk8s/common/run/containerd.sock",
	}
}

const (
	// patience is for one round over all runtimes, connecting included. They answer in
	// milliseconds; names are not worth more waiting.
	patience = 500 * time.Millisecond
	// restAfterAnswer and restAfterFailure are how long nothing is asked again. The latter
	// doubles with each failure up to maxRest.
	restAfterAnswer  = 5 * time.Second
	restAfterFailure = 30 * time.Second
	maxRest          = 10 * time.Minute
	// maxMessage is what the kubelet accepts too.
	maxMessage = 16 << 20
)

// gRPC writes to stderr what a peer does that it did not expect; the error of the call says
// enough. It wants to be told before it is first used.
func init() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
}

// Options of a Client.
type Options struct {
	// Endpoint is the one socket to ask, as a path or a unix:// URL; "" means the usual ones.
	Endpoint string
	// Log gets messages about what could not be asked; nil discards them.
	Log *slog.Logger
	// Now reads the clock, nil means time.Now.
	Now func() time.Time
	// Patience bounds one round over all runtimes, 0 means 500 ms.
	Patience time.Duration
}

// Client remembers what the runtimes told. It connects when it is first asked about an id.
// It may be used from several goroutines.
type Client struct {
	o       Options
	sockets []string
	given   bool

	mu    sync.Mutex
	known Names
	err   error
	next  time.Time
	rest  time.Duration
}

// New returns a client; it does nothing yet.
func New(o Options) *Client {
	c := &Client{o: o, sockets: usualSockets(), given: o.Endpoint != ""}
	if c.given {
		c.sockets = []string{o.Endpoint}
	}
	if c.o.Log == nil {
		c.o.Log = slog.New(slog.DiscardHandler)
	}
	if c.o.Now == nil {
		c.o.Now = time.Now
	}
	if c.o.Patience <= 0 {
		c.o.Patience = patience
	}
	return c
}

// Lookup returns what is known once the runtimes were asked about the containers and pods
// that are not known yet. That is not done again and again, so some can stay unknown. The
// error is that of the last round; what other runtimes told, or an earlier round, is there
// all the same.
func (c *Client) Lookup(ctx context.Context, containers, pods []string) (Names, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.knows(containers, pods) {
		return c.known, nil
	}
	if now := c.o.Now(); !now.Before(c.next) {
		c.ask(ctx)
		c.next = c.o.Now().Add(c.rest)
	}
	return c.known, c.err
}

// Err is why not all names are known, nil while nobody asked.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *Client) knows(containers, pods []string) bool {
	for _, id := range containers {
		if _, ok := c.known.Containers[id]; !ok && id != "" {
			return false
		}
	}
	for _, uid := range pods {
		if _, ok := c.known.Pods[uid]; !ok && uid != "" {
			return false
		}
	}
	return true
}

// answer is what one runtime told.
type answer struct {
	names Names
	err   error
}

// ask makes one round over all runtimes at once.
func (c *Client) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Patience)
	defer cancel()
	// With room for all, so that none hangs if its answer is not waited for.
	answers := make(chan answer, len(c.sockets))
	asked := 0
	for _, socket := range c.sockets {
		switch path, err := c.path(socket); {
		case err != nil:
			answers <- answer{err: err}
		case path != "":
			go func() { answers <- list(ctx, path) }()
		default:
			continue
		}
		asked++
	}
	var errs []error
	if asked == 0 {
		errs = append(errs, ErrNoRuntime)
	}
	told := Names{map[string]Container{}, map[string]Pod{}}
	for range asked {
		select {
		case a := <-answers:
			errs = append(errs, a.err)
			told = merged(told, a.names)
		case <-ctx.Done():
			// gRPC keeps to the deadline by itself; this does not depend on it.
			errs = append(errs, ctx.Err())
		}
	}
	c.known = merged(c.known, told)
	c.err = errors.Join(errs...)
	if c.err == nil {
		c.rest = restAfterAnswer
		return
	}
	c.rest = min(max(restAfterFailure, 2*c.rest), maxRest)
	c.o.Log.Info("names of containers are not all known", "error", c.err)
}

// path returns the path of the socket, "" where one of the usual ones is not there.
func (c *Client) path(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("%s=%q: want unix:///path/to/cri.sock", EndpointEnv, endpoint)
	}
	_, err := os.Stat(path)
	switch {
	case err == nil:
		return path, nil
	case errors.Is(err, fs.ErrNotExist) && !c.given:
		return "", nil
	default:
		return "", fmt.Errorf("find the container runtime: %w", err)
	}
}

// list asks the runtime that listens at path for all its containers and pods.
func list(ctx context.Context, path string) answer {
	told := Names{map[string]Container{}, map[string]Pod{}}
	fail := func(err error) answer {
		return answer{told, fmt.Errorf("ask the container runtime at %s: %w", path, err)}
	}
	conn, err := dial(path)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = conn.Close() }()
	client := runtime.NewRuntimeServiceClient(conn)
	pods, err := client.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return fail(err)
	}
	told.add(nil, pods.GetItems())
	containers, err := client.ListContainers(ctx, &runtime.ListContainersRequest{})
	if err != nil {
		return fail(err)
	}
	told.add(containers.GetContainers(), pods.GetItems())
	return answer{names: told}
}

// dial opens no connection yet.
func dial(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient(
		// The name is only for messages; the dialer knows where to go.
		"passthrough:///cri",
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
}
