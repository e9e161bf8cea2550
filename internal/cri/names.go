// Package cri asks the container runtimes of the host, by the Kubernetes Container Runtime
// Interface, what they call their containers and pods. Names are an addition: whoever asks
// gets an answer within a bounded time, with or without them.
package cri

import (
	"maps"
	"strings"
	"unicode/utf8"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Container is what a runtime calls one container; empty is unknown. All strings come from
// the runtime, and through it from whoever wrote the pod: any character can be in them.
type Container struct {
	// Name is that of the container in its pod, empty for the sandbox that holds a pod's
	// namespaces.
	Name string
	// Image is as the pod asks for it, or the id the runtime gave it.
	Image string
	Pod   Pod
}

// Pod is what a runtime calls one pod.
type Pod struct{ Name, Namespace string }

// Names are what the runtimes told. Ids are never given out twice, so that names of what
// has ended stay right. It is not changed once it was handed out.
type Names struct {
	// Containers by id, sandboxes among them; Pods by uid.
	Containers map[string]Container
	Pods       map[string]Pod
}

// maxName bounds a string of a runtime, in bytes. Names in Kubernetes have at most 253, image
// references at most 255 besides their digest.
const maxName = 512

// maxKnown bounds how many containers are remembered. The kubelet allows 110 pods a node
// unless told otherwise.
const maxKnown = 1 << 16

// add takes what one runtime listed.
func (n *Names) add(containers []*runtime.Container, sandboxes []*runtime.PodSandbox) {
	inSandbox := map[string]Pod{}
	for _, s := range sandboxes {
		pod := Pod{bounded(s.GetMetadata().GetName()), bounded(s.GetMetadata().GetNamespace())}
		if pod == (Pod{}) {
			continue
		}
		inSandbox[s.GetId()] = pod
		if uid := s.GetMetadata().GetUid(); idLike(uid) && len(n.Pods) < maxKnown {
			n.Pods[strings.Clone(uid)] = pod
		}
		n.put(s.GetId(), Container{Pod: pod})
	}
	for _, c := range containers {
		image := c.GetImage().GetUserSpecifiedImage()
		if image == "" {
			image = c.GetImage().GetImage()
		}
		n.put(c.GetId(), Container{
			Name: bounded(c.GetMetadata().GetName()), Image: bounded(image),
			Pod: inSandbox[c.GetPodSandboxId()],
		})
	}
}

func (n *Names) put(id string, c Container) {
	if idLike(id) && len(n.Containers) < maxKnown {
		n.Containers[strings.Clone(id)] = c
	}
}

// merged is both together; what is new counts. Where that would be too much the old is
// forgotten.
func merged(old, recent Names) Names {
	all := Names{maps.Clone(recent.Containers), maps.Clone(recent.Pods)}
	if len(old.Containers)+len(recent.Containers) > maxKnown || len(old.Pods)+len(recent.Pods) > maxKnown {
		return all
	}
	for id, c := range old.Containers {
		if _, ok := all.Containers[id]; !ok {
			all.Containers[id] = c
		}
	}
	for uid, p := range old.Pods {
		if _, ok := all.Pods[uid]; !ok {
			all.Pods[uid] = p
		}
	}
	return all
}

// idLike: what cannot be the id of a cgroup path need not be kept.
func idLike(s string) bool { return s != "" && len(s) <= 128 }

// bounded cuts a string at a character, visibly.
func bounded(s string) string {
	if len(s) <= maxName {
		return strings.Clone(s)
	}
	const mark = "..."
	cut := maxName - len(mark)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + mark
}
