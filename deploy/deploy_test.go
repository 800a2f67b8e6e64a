package deploy

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/troupe-engine/troupe"
)

// known maps what the manifests may contain to its type.
var known = map[string]func() any{
	"apps/v1 Deployment":                            func() any { return &workload{} },
	"apps/v1 StatefulSet":                           func() any { return &workload{} },
	"v1 Service":                                    func() any { return &service{} },
	"v1 ServiceAccount":                             func() any { return &serviceAccount{} },
	"policy/v1 PodDisruptionBudget":                 func() any { return &disruptionBudget{} },
	"networking.k8s.io/v1 NetworkPolicy":            func() any { return &networkPolicy{} },
	"autoscaling/v2 HorizontalPodAutoscaler":        func() any { return &autoscaler{} },
	"kustomize.config.k8s.io/v1beta1 Kustomization": func() any { return &kustomization{} },
}

// load decodes all documents of a file, strictly.
func load(t *testing.T, path string) (objects []any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	loose, strict := yaml.NewDecoder(bytes.NewReader(raw)), yaml.NewDecoder(bytes.NewReader(raw))
	strict.KnownFields(true)
	for {
		var k struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string `yaml:"kind"`
		}
		if err := loose.Decode(&k); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		make := known[k.APIVersion+" "+k.Kind]
		if make == nil {
			t.Fatalf("%s: %s %s is not known here", path, k.APIVersion, k.Kind)
		}
		object := make()
		if err := strict.Decode(object); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		objects = append(objects, object)
	}
}

// build loads a kustomization with what it refers to: all objects, its patches apart.
func build(t *testing.T, dir string) (objects, patches []any) {
	t.Helper()
	k := load(t, filepath.Join(dir, "kustomization.yaml"))[0].(*kustomization)
	for _, r := range k.Resources {
		path := filepath.Join(dir, r)
		if info, err := os.Stat(path); err != nil {
			t.Fatal(err)
		} else if info.IsDir() {
			inner, innerPatches := build(t, path)
			objects, patches = append(objects, inner...), append(patches, innerPatches...)
			continue
		}
		objects = append(objects, load(t, path)...)
	}
	for _, p := range k.Patches {
		patches = append(patches, load(t, filepath.Join(dir, p.Path))...)
	}
	return objects, patches
}

var overlays = []string{"kubernetes/overlays/single", "kubernetes/overlays/cluster"}

func TestEveryManifestIsUsed(t *testing.T) {
	used := map[string]bool{}
	var mark func(dir string)
	mark = func(dir string) {
		k := load(t, filepath.Join(dir, "kustomization.yaml"))[0].(*kustomization)
		used[filepath.Join(dir, "kustomization.yaml")] = true
		for _, r := range k.Resources {
			path := filepath.Join(dir, r)
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				mark(path)
			}
			used[path] = true
		}
		for _, p := range k.Patches {
			used[filepath.Join(dir, p.Path)] = true
		}
	}
	for _, o := range overlays {
		mark(o)
	}
	if err := filepath.WalkDir("kubernetes", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !used[path] {
			t.Errorf("no overlay uses %s", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// of returns the objects of one type.
func of[T any](objects []any) (list []*T) {
	for _, o := range objects {
		if v, ok := o.(*T); ok {
			list = append(list, v)
		}
	}
	return list
}

func TestPodsKeepTheContract(t *testing.T) {
	for _, overlay := range overlays {
		objects, patches := build(t, overlay)
		workloads := of[workload](objects)
		for _, w := range workloads {
			name, spec := overlay+": "+w.Metadata.Name, &w.Spec.Template.Spec
			check := func(ok bool, format string) {
				t.Helper()
				if !ok {
					t.Errorf("%s: %s", name, format)
				}
			}
			labels := w.Spec.Template.Metadata.Labels
			check(reflect.DeepEqual(w.Spec.Selector.MatchLabels, labels), "the selector does not choose its own pods")
			s := &spec.SecurityContext
			check(s.RunAsNonRoot && s.RunAsUser == 65532 && s.SeccompProfile.Type == "RuntimeDefault", "it may run as root, or without seccomp")
			check(spec.AutomountServiceAccountToken != nil && !*spec.AutomountServiceAccountToken, "it gets a token for Kubernetes' API, which it does not need")
			for i := range spec.Containers {
				c := &spec.Containers[i]
				sc := &c.SecurityContext
				check(sc.ReadOnlyRootFilesystem && sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation && slices.Equal(sc.Capabilities.Drop, []string{"ALL"}), "its root is writable, or it has capabilities")
				check(c.StartupProbe != nil && c.ReadinessProbe != nil && c.LivenessProbe != nil, "a probe is missing")
				check(c.Lifecycle.PreStop != nil, "nothing happens before it stops")
				check(c.Resources.Requests["cpu"] != "" && c.Resources.Limits["memory"] != "", "it has no resources")
				checkArgs(t, name, c.Args, c.Env)
				checkProbes(t, name, c)
				checkMounts(t, name, c, spec.Volumes)
				check(spec.TerminationGracePeriodSeconds > int((stopTime(t, c)).Seconds()), "it is killed before it has stopped by itself")
			}
			check(slices.ContainsFunc(of[disruptionBudget](objects), func(b *disruptionBudget) bool {
				return b.Spec.MaxUnavailable == 1 && reflect.DeepEqual(b.Spec.Selector.MatchLabels, labels)
			}), "no PodDisruptionBudget protects it")
			check(slices.ContainsFunc(of[networkPolicy](objects), func(p *networkPolicy) bool { return reflect.DeepEqual(p.Spec.PodSelector.MatchLabels, labels) }), "no NetworkPolicy protects it")
		}
		for _, p := range of[workload](patches) {
			for i := range p.Spec.Template.Spec.Containers {
				c := &p.Spec.Template.Spec.Containers[i]
				checkArgs(t, overlay+" patch", c.Args, c.Env)
				checkMounts(t, overlay+" patch", c, p.Spec.Template.Spec.Volumes)
			}
		}
		checkReferences(t, overlay, objects, patches)
	}
}

// checkArgs holds a command line to the options that exist, and environment variables likewise.
func checkArgs(t *testing.T, name string, args []string, envs []env) {
	t.Helper()
	options := map[string]bool{"config": true}
	typ := reflect.TypeFor[troupe.Options]()
	for i := range typ.NumField() {
		options[strings.ReplaceAll(typ.Field(i).Tag.Get("yaml"), "_", "-")] = true
	}
	if len(args) == 0 || args[0] != "serve" && args[0] != "attach" {
		t.Errorf("%s: the command is %q", name, args)
	}
	for _, a := range args {
		if flag, is := strings.CutPrefix(a, "--"); is && !options[flag] {
			t.Errorf("%s: there is no --%s", name, flag)
		}
	}
	for _, e := range envs {
		if key := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(e.Name, "TROUPE_"), "_", "-")); !options[key] && e.Name != "TROUPE_CACHE" {
			t.Errorf("%s: there is no option %s", name, e.Name)
		}
	}
	if slices.Contains(args, "--insecure-network") {
		t.Errorf("%s listens to everybody", name)
	}
}

// checkProbes holds probes to the paths, ports and commands that exist.
func checkProbes(t *testing.T, name string, c *container) {
	t.Helper()
	for kind, p := range map[string]*probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		switch {
		case p == nil:
		case p.HTTPGet != nil:
			want := map[string]string{"startup": "/health", "readiness": "/health/ready", "liveness": "/health"}[kind]
			if p.HTTPGet.Path != want || !slices.ContainsFunc(c.Ports, func(q port) bool { return q.Name == p.HTTPGet.Port && q.ContainerPort == 8000 }) {
				t.Errorf("%s: the %s probe asks %+v", name, kind, p.HTTPGet)
			}
		case p.Exec == nil || len(p.Exec.Command) < 2 || p.Exec.Command[0] != "/troupe" || p.Exec.Command[1] != "health":
			t.Errorf("%s: the %s probe is %+v", name, kind, p)
		case (kind == "readiness") == slices.Contains(p.Exec.Command, "--live"):
			t.Errorf("%s: the %s probe asks whether it is ready or lives, and should the other", name, kind)
		}
	}
}

// checkMounts looks for volumes that are mounted and do not exist, or exist in vain.
func checkMounts(t *testing.T, name string, c *container, volumes []volume) {
	t.Helper()
	for _, m := range c.VolumeMounts {
		i := slices.IndexFunc(volumes, func(v volume) bool { return v.Name == m.Name })
		if i < 0 {
			t.Errorf("%s: there is no volume %s", name, m.Name)
			continue
		}
		if s := volumes[i].Secret; s != nil && (s.DefaultMode != 0o440 || !m.ReadOnly) {
			t.Errorf("%s: the secret %s has mode %o", name, s.SecretName, s.DefaultMode)
		}
	}
	for _, v := range volumes {
		if !slices.ContainsFunc(c.VolumeMounts, func(m struct {
			Name      string `yaml:"name"`
			MountPath string `yaml:"mountPath"`
			ReadOnly  bool   `yaml:"readOnly"`
		}) bool {
			return m.Name == v.Name
		}) {
			t.Errorf("%s: nobody mounts %s", name, v.Name)
		}
	}
}

// stopTime is how long a container may take to stop: its hook, and then its grace.
func stopTime(t *testing.T, c *container) time.Duration {
	t.Helper()
	total := time.Duration(0)
	after := func(list []string, flag string) {
		if i := slices.Index(list, flag); i >= 0 && i+1 < len(list) {
			d, err := time.ParseDuration(list[i+1])
			if err != nil {
				t.Fatal(err)
			}
			total += d
		}
	}
	after(c.Args, "--grace")
	if h := c.Lifecycle.PreStop; h != nil && h.Sleep != nil {
		total += time.Duration(h.Sleep.Seconds) * time.Second
	} else if h != nil && h.Exec != nil {
		if len(h.Exec.Command) < 2 || h.Exec.Command[0] != "/troupe" || h.Exec.Command[1] != "drain" {
			t.Errorf("before it stops, it runs %q", h.Exec.Command)
		}
		after(h.Exec.Command, "--wait")
	}
	return total
}

// checkReferences looks for names that objects call each other by and that nobody has.
func checkReferences(t *testing.T, overlay string, objects, patches []any) {
	t.Helper()
	workloads := of[workload](objects)
	ports := func(labels map[string]string, name string) bool {
		for _, w := range append(slices.Clone(workloads), of[workload](patches)...) {
			matches := reflect.DeepEqual(w.Spec.Template.Metadata.Labels, labels) || len(w.Spec.Template.Metadata.Labels) == 0
			for _, c := range w.Spec.Template.Spec.Containers {
				if matches && slices.ContainsFunc(c.Ports, func(p port) bool { return p.Name == name }) {
					return true
				}
			}
		}
		return false
	}
	for _, s := range of[service](objects) {
		for _, p := range s.Spec.Ports {
			if !ports(s.Spec.Selector, p.TargetPort) {
				t.Errorf("%s: the service %s leads to port %s, which no container has", overlay, s.Metadata.Name, p.TargetPort)
			}
		}
	}
	for _, a := range of[autoscaler](objects) {
		if !slices.ContainsFunc(workloads, func(w *workload) bool {
			return w.Metadata.Name == a.Spec.ScaleTargetRef.Name && w.Kind == a.Spec.ScaleTargetRef.Kind && w.Spec.Replicas >= a.Spec.MinReplicas
		}) {
			t.Errorf("%s: the autoscaler scales %+v, which is not there", overlay, a.Spec.ScaleTargetRef)
		}
		metrics, err := os.ReadFile("../docs/metrics.md")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range a.Spec.Metrics {
			if !strings.Contains(string(metrics), "`"+m.External.Metric.Name+"`") {
				t.Errorf("%s: there is no metric %s", overlay, m.External.Metric.Name)
			}
		}
	}
	for _, w := range of[workload](patches) {
		if !slices.ContainsFunc(workloads, func(v *workload) bool { return v.Metadata.Name == w.Metadata.Name && v.Kind == w.Kind }) {
			t.Errorf("%s: a patch is for %s, which is not there", overlay, w.Metadata.Name)
		}
	}
}

func TestTheContainerFileKeepsTheContract(t *testing.T) {
	raw, err := os.ReadFile("Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	_, last, found := strings.Cut(text, "FROM scratch")
	if !found || strings.Count(text, "\nFROM ") != 2 {
		t.Error("it has not two stages, the last of which begins with nothing")
	}
	for _, want := range []string{"USER 65532:65532", `HEALTHCHECK`, `CMD ["/troupe", "health"]`, `ENTRYPOINT ["/troupe"]`, "STOPSIGNAL SIGTERM"} {
		if !strings.Contains(last, want) {
			t.Errorf("the last stage lacks %s", want)
		}
	}
	if !strings.Contains(text, "CGO_ENABLED=0") {
		t.Error("the binary needs a C library, and there is none")
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)[1]
	if !strings.Contains(text, "ARG GO_VERSION="+string(version)+"\n") {
		t.Errorf("it builds with another Go than go.mod's %s", version)
	}
}

func TestTheUnitKeepsTheContract(t *testing.T) {
	raw, err := os.ReadFile("systemd/troupe.service")
	if err != nil {
		t.Fatal(err)
	}
	section, keys := "", map[string]string{}
	for _, line := range strings.Split(string(raw), "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		default:
			key, value, is := strings.Cut(line, "=")
			if !is || section == "" {
				t.Errorf("%q is neither a section nor a setting", line)
			}
			keys[section+key] = value
		}
	}
	for key, want := range map[string]string{"[Service]ProtectSystem": "strict", "[Service]NoNewPrivileges": "yes", "[Service]DynamicUser": "yes", "[Service]CapabilityBoundingSet": "",
		"[Service]KillSignal": "SIGTERM", "[Install]WantedBy": "multi-user.target", "[Service]ExecStart": "/usr/local/bin/troupe $TROUPE_ARGS"} {
		if got, set := keys[key]; !set || got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if stop, err := time.ParseDuration(keys["[Service]TimeoutStopSec"]); err != nil || stop <= troupe.DefaultOptions().Grace {
		t.Errorf("it is killed after %s (%v), before its grace of %s is over", stop, err, troupe.DefaultOptions().Grace)
	}
}
