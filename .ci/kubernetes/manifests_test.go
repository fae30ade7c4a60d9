// Package kubernetes checks the manifests of deploy/kubernetes.
package kubernetes

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

const (
	dir = "../../deploy/kubernetes/"

	// version is that of the schemas.
	version = "1.30"
)

// documents returns the documents of each manifest.
func documents(t *testing.T) map[string][][]byte {
	t.Helper()
	names, err := filepath.Glob(dir + "*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	all := make(map[string][][]byte)
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(name)] = bytes.Split(text, []byte("\n---\n"))
	}
	return all
}

// TestSchemas validates the manifests against the schemas of Kubernetes.
func TestSchemas(t *testing.T) {
	s := newSchemas(t, version)
	for name, docs := range documents(t) {
		for _, doc := range docs {
			if err := s.validate(doc); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestSchemasFindFaults shows that TestSchemas can fail.
func TestSchemasFindFaults(t *testing.T) {
	s := newSchemas(t, version)
	doc := documents(t)["deployment.yaml"][0]
	for _, tt := range []struct{ old, new string }{
		{"minReadySeconds: 5", "minReadySecond: 5"},
		{"replicas: 3", "replicas: three"},
		{"  selector:\n    matchLabels:\n      app.kubernetes.io/name: web\n  strategy", "  strategy"},
		{"path: /readyz", "pth: /readyz"},
		{"maxSurge: 1", "maxSurge: 1.5"},
		{"- -dir=/srv/site", "- 5"},
		{"drop: [ALL]", "drop: ALL"},
		{"runAsNonRoot: true", "runAsNonRoot: 1"},
		{"kind: Deployment", "kind: Deploiment"},
	} {
		wrong := strings.Replace(string(doc), tt.old, tt.new, 1)
		if wrong == string(doc) {
			t.Errorf("the manifest has no %q", tt.old)
		} else if err := s.validate([]byte(wrong)); err == nil {
			t.Errorf("%q instead of %q is valid, want an error", tt.new, tt.old)
		}
	}
}

// TestRollingUpdate decodes the manifests into the types of Kubernetes, without
// unknown fields, and checks what a rolling update without loss stands on.
func TestRollingUpdate(t *testing.T) {
	lastcall := filepath.Join(t.TempDir(), "lastcall")
	build := exec.Command("go", "build", "-o", lastcall, ".")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build lastcall: %v\n%s", err, out)
	}
	var service corev1.Service
	var budget policyv1.PodDisruptionBudget
	deployments := make(map[string]appsv1.Deployment)
	for name, docs := range documents(t) {
		for _, doc := range docs {
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal(doc, &kind); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			var d appsv1.Deployment
			into, ok := map[string]any{"Deployment": &d, "Service": &service, "PodDisruptionBudget": &budget, "ConfigMap": new(corev1.ConfigMap)}[kind.Kind]
			if !ok {
				t.Fatalf("%s: a %s, which this test does not know", name, kind.Kind)
			}
			if err := yaml.UnmarshalStrict(doc, into); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if kind.Kind == "Deployment" {
				deployments[name] = d
			}
		}
	}
	if len(deployments) != 2 {
		t.Fatalf("%d deployments, want 2", len(deployments))
	}
	for name, d := range deployments {
		t.Run(name, func(t *testing.T) {
			pod := d.Spec.Template
			set := labels.Set(pod.Labels)
			selects := func(what string, s *metav1.LabelSelector) {
				sel, err := metav1.LabelSelectorAsSelector(s)
				if err != nil || sel.Empty() || !sel.Matches(set) {
					t.Errorf("%s does not select the pods: %v", what, err)
				}
			}
			selects("the deployment", d.Spec.Selector)
			selects("the budget", budget.Spec.Selector)
			selects("the service", &metav1.LabelSelector{MatchLabels: service.Spec.Selector})
			for _, c := range pod.Spec.TopologySpreadConstraints {
				selects("the spread over "+c.TopologyKey, c.LabelSelector)
			}
			if u := d.Spec.Strategy.RollingUpdate; u == nil || u.MaxUnavailable.IntValue() != 0 || u.MaxSurge.IntValue() < 1 {
				t.Error("strategy: want a surge, and nothing unavailable")
			}
			if budget.Spec.MaxUnavailable.IntValue() >= int(*d.Spec.Replicas) {
				t.Error("the budget allows that nobody serves")
			}

			// The order of a stop: lastcall, which is a container, then its sidecars.
			if len(pod.Spec.Containers) != 1 {
				t.Fatalf("%d containers, want lastcall alone: all of them get SIGTERM at once", len(pod.Spec.Containers))
			}
			c := pod.Spec.Containers[0]
			for _, side := range pod.Spec.InitContainers {
				if side.RestartPolicy == nil || *side.RestartPolicy != corev1.ContainerRestartPolicyAlways {
					t.Errorf("%s is not a sidecar", side.Name)
				}
			}
			if out, err := exec.Command(lastcall, append([]string{"-check", "-dir=/"}, without(c.Args, "-dir", "-proxy")...)...).CombinedOutput(); err != nil {
				t.Errorf("lastcall -check %v: %s", c.Args, out)
			}
			times := argTime(t, c.Args, "-lame-duck") + argTime(t, c.Args, "-grace")
			if len(pod.Spec.InitContainers) > 0 {
				times += 10 * time.Second // for the program
			}
			if grace := time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second; grace < times+5*time.Second {
				t.Errorf("terminationGracePeriodSeconds = %v, want %v and 5 s in reserve", grace, times)
			}
			if c.Lifecycle != nil {
				t.Error("a preStop hook only takes from the time of the stop")
			}
			for what, probe := range map[string]*corev1.Probe{"/readyz ": c.StartupProbe, "/readyz": c.ReadinessProbe, "/livez": c.LivenessProbe} {
				if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != strings.TrimSpace(what) || !hasPort(c, probe.HTTPGet.Port.StrVal) {
					t.Errorf("no probe of %s at a port of the container", what)
				}
			}
			if !hasPort(c, service.Spec.Ports[0].TargetPort.StrVal) {
				t.Error("the container does not listen on the service's port")
			}
			for _, c := range append(pod.Spec.InitContainers, c) {
				s := c.SecurityContext
				if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
					t.Errorf("%s may more than it needs", c.Name)
				}
			}
			if s := pod.Spec.SecurityContext; s == nil || !*s.RunAsNonRoot || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Error("the pod may more than it needs")
			}
		})
	}
}

func hasPort(c corev1.Container, name string) bool {
	for _, p := range c.Ports {
		if p.Name == name {
			return true
		}
	}
	return false
}

func without(args []string, names ...string) (rest []string) {
next:
	for _, a := range args {
		for _, name := range names {
			if strings.HasPrefix(a, name+"=") {
				continue next
			}
		}
		rest = append(rest, a)
	}
	return rest
}

// argTime returns the longest that a time in args can be.
func argTime(t *testing.T, args []string, name string) time.Duration {
	t.Helper()
	for _, a := range args {
		value, ok := strings.CutPrefix(a, name+"=")
		if !ok {
			continue
		}
		if value == "auto" {
			return 30 * time.Second
		}
		d, err := time.ParseDuration(value)
		if err != nil {
			t.Error(err)
		}
		return d
	}
	t.Errorf("args %v have no %s", args, name)
	return 0
}
