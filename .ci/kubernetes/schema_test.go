package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// schemas are those of Kubernetes's API, by the version of a group, such as apps/v1.
// kubectl-validate has them as files. (Its library would compile a thousand packages.)
type schemas struct{ dir string }

// schema is as much of OpenAPI as those files use.
type schema struct {
	Ref                  string                                  `json:"$ref"`
	Type                 string                                  `json:"type"`
	AllOf                []*schema                               `json:"allOf"`
	OneOf                []*schema                               `json:"oneOf"`
	Properties           map[string]*schema                      `json:"properties"`
	AdditionalProperties *schema                                 `json:"additionalProperties"`
	Items                *schema                                 `json:"items"`
	Required             []string                                `json:"required"`
	Kinds                []struct{ Group, Version, Kind string } `json:"x-kubernetes-group-version-kind"`
}

func newSchemas(t *testing.T, version string) schemas {
	t.Helper()
	out, err := exec.Command("go", "mod", "download", "-json", "sigs.k8s.io/kubectl-validate").Output()
	var module struct{ Dir string }
	if err == nil {
		err = json.Unmarshal(out, &module)
	}
	if err != nil {
		t.Fatalf("download the schemas: %v: %s", err, out)
	}
	return schemas{filepath.Join(module.Dir, "pkg/openapiclient/builtins", version)}
}

// validate returns the first error in a document.
func (s schemas) validate(doc []byte) error {
	var object any
	if err := yaml.UnmarshalStrict(doc, &object); err != nil {
		return err
	}
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &meta); err != nil {
		return err
	}
	gvk := meta.GroupVersionKind()
	file := filepath.Join("apis", gvk.Group, gvk.Version+".json")
	if gvk.Group == "" {
		file = filepath.Join("api", gvk.Version+".json")
	}
	text, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil {
		return err
	}
	var api struct {
		Components struct{ Schemas map[string]*schema }
	}
	if err := json.Unmarshal(text, &api); err != nil {
		return err
	}
	all := api.Components.Schemas
	for _, s := range all {
		for _, k := range s.Kinds {
			if len(s.Kinds) == 1 && k.Group == gvk.Group && k.Version == gvk.Version && k.Kind == gvk.Kind {
				return s.check(all, gvk.Kind, object)
			}
		}
	}
	return fmt.Errorf("%s has no %s", meta.APIVersion, meta.Kind)
}

// check returns an error if v, which is at a place of the document, is not as the
// schema wants it. Fields that the schema does not have are errors.
func (s *schema) check(all map[string]*schema, at string, v any) error {
	if s.Ref != "" {
		to, ok := all[path.Base(s.Ref)]
		if !ok {
			return fmt.Errorf("%s: no schema %s", at, s.Ref)
		}
		return to.check(all, at, v)
	}
	for _, to := range s.AllOf {
		if err := to.check(all, at, v); err != nil {
			return err
		}
	}
	if len(s.OneOf) > 0 {
		var errs []string
		for _, to := range s.OneOf {
			err := to.check(all, at, v)
			if err == nil {
				return nil
			}
			errs = append(errs, err.Error())
		}
		return fmt.Errorf("%s", strings.Join(errs, "; "))
	}
	wrong := fmt.Errorf("%s: %v, want %s", at, v, s.Type)
	switch s.Type {
	case "object":
		fields, ok := v.(map[string]any)
		if !ok {
			return wrong
		}
		for _, name := range s.Required {
			if _, ok := fields[name]; !ok {
				return fmt.Errorf("%s: want %s", at, name)
			}
		}
		for name, v := range fields {
			to := s.Properties[name]
			if to == nil {
				to = s.AdditionalProperties
			}
			if to == nil {
				return fmt.Errorf("%s: no such field: %s", at, name)
			}
			if err := to.check(all, at+"."+name, v); err != nil {
				return err
			}
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			return wrong
		}
		for i, v := range list {
			if err := s.Items.check(all, fmt.Sprintf("%s[%d]", at, i), v); err != nil {
				return err
			}
		}
	case "string":
		if _, ok := v.(string); !ok {
			return wrong
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return wrong
		}
	case "integer", "number":
		n, ok := v.(float64)
		if !ok || s.Type == "integer" && n != float64(int64(n)) {
			return wrong
		}
	}
	return nil
}
