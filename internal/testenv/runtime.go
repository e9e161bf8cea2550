package testenv

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is a container runtime as far as the published API goes: it lists what it was
// told and runs nothing.
type Runtime struct {
	runtime.UnimplementedRuntimeServiceServer
	// Path of its socket.
	Path string

	mu         sync.Mutex
	containers []*runtime.Container
	sandboxes  []*runtime.PodSandbox
	err        error
	hang       bool
	asked      int
	ended      chan struct{}
}

// StartRuntime listens on a socket of its own until the test ends.
func StartRuntime(tb testing.TB) *Runtime {
	tb.Helper()
	r := &Runtime{Path: filepath.Join(tb.TempDir(), "cri.sock"), ended: make(chan struct{})}
	listener, err := net.Listen("unix", r.Path)
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	server := grpc.NewServer()
	runtime.RegisterRuntimeServiceServer(server, r)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	tb.Cleanup(func() {
		close(r.ended)
		server.Stop()
		if err := <-served; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	return r
}

// AddPod adds a pod by its sandbox.
func (r *Runtime) AddPod(sandbox, uid, namespace, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes = append(r.sandboxes, &runtime.PodSandbox{
		Id: sandbox, Metadata: &runtime.PodSandboxMetadata{Name: name, Uid: uid, Namespace: namespace},
	})
}

// AddContainer adds a container in a sandbox.
func (r *Runtime) AddContainer(id, sandbox, name, image string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers = append(r.containers, &runtime.Container{
		Id: id, PodSandboxId: sandbox, Metadata: &runtime.ContainerMetadata{Name: name},
		Image: &runtime.ImageSpec{Image: "sha256:0", UserSpecifiedImage: image},
	})
}

// Fail makes all further calls fail with err.
func (r *Runtime) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// Hang leaves all further calls without an answer.
func (r *Runtime) Hang() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hang = true
}

// Asked is how often containers or pods were listed.
func (r *Runtime) Asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// ListContainers implements runtime.RuntimeServiceServer.
func (r *Runtime) ListContainers(context.Context, *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	if err := r.called(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return &runtime.ListContainersResponse{Containers: slices.Clone(r.containers)}, nil
}

// ListPodSandbox implements runtime.RuntimeServiceServer.
func (r *Runtime) ListPodSandbox(context.Context, *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	if err := r.called(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return &runtime.ListPodSandboxResponse{Items: slices.Clone(r.sandboxes)}, nil
}

// called does what a call was told to do before its answer.
func (r *Runtime) called() error {
	r.mu.Lock()
	r.asked++
	hang, err := r.hang, r.err
	r.mu.Unlock()
	if hang {
		<-r.ended
	}
	return err
}
