// Parent does with controller-runtime what Ahoi does for a customer without a database: one object is fanned out to the
// same children. It is written as such controllers usually are, and tuned: no limit of the client's own, many workers, typed
// caches, and nothing is written that is the same already. Nothing is called ready before Kubernetes has looked at the Deployment.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

var tenantKind = schema.GroupVersionKind{Group: "bench.internal.example.com", Version: "v1", Kind: "Tenant"}

type reconciler struct {
	client.Client
	// The children of a tenant in order, as JSON with @NAME@ for the tenant's name. One that is a custom resource has the status
	// that it is to end with.
	children []string
}

func newTenant() *unstructured.Unstructured {
	tenant := &unstructured.Unstructured{}
	tenant.SetGroupVersionKind(tenantKind)
	return tenant
}

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	tenant := newTenant()
	if err := r.Get(ctx, request.NamespacedName, tenant); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if tenant.GetDeletionTimestamp() != nil {
		return ctrl.Result{}, nil
	}
	observed := true
	var customs, wanted []*unstructured.Unstructured
	for _, template := range r.children {
		want, err := decode(strings.ReplaceAll(template, "@NAME@", tenant.GetName()))
		if err != nil {
			return ctrl.Result{}, err
		}
		have := want.DeepCopyObject().(client.Object)
		if _, err := controllerutil.CreateOrUpdate(ctx, r.Client, have, func() error {
			mutate(have, want)
			return controllerutil.SetControllerReference(tenant, have, r.Scheme())
		}); err != nil {
			return ctrl.Result{}, err
		}
		switch have := have.(type) {
		case *appsv1.Deployment:
			observed = observed && have.Status.ObservedGeneration >= have.Generation
		case *unstructured.Unstructured:
			customs, wanted = append(customs, have), append(wanted, want.(*unstructured.Unstructured))
		}
	}
	// Its event brings the tenant back.
	if !observed {
		return ctrl.Result{}, nil
	}
	for i, custom := range customs {
		if err := r.tell(ctx, custom, wanted[i].Object["status"]); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{}, r.tell(ctx, tenant, map[string]any{"ready": true})
}

// tell writes the status of an object if it is another.
func (r *reconciler) tell(ctx context.Context, object *unstructured.Unstructured, status any) error {
	if status == nil || reflect.DeepEqual(object.Object["status"], status) {
		return nil
	}
	before := object.DeepCopy()
	object.Object["status"] = status
	return r.Status().Patch(ctx, object, client.MergeFrom(before))
}

// decode makes a typed object of what is Kubernetes' own, and an unstructured one of the rest.
func decode(text string) (client.Object, error) {
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(text), nil, nil)
	if err == nil {
		return object.(client.Object), nil
	}
	custom := &unstructured.Unstructured{}
	return custom, json.Unmarshal([]byte(text), custom)
}

// mutate puts what is wanted into what is there.
func mutate(have, want client.Object) {
	labels := have.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	for key, value := range want.GetLabels() {
		labels[key] = value
	}
	if len(labels) > 0 {
		have.SetLabels(labels)
	}
	switch have := have.(type) {
	case *corev1.Namespace: // nothing but labels
	case *corev1.ServiceAccount:
		have.AutomountServiceAccountToken = want.(*corev1.ServiceAccount).AutomountServiceAccountToken
	case *rbacv1.RoleBinding:
		have.Subjects, have.RoleRef = want.(*rbacv1.RoleBinding).Subjects, want.(*rbacv1.RoleBinding).RoleRef
	case *unstructured.Unstructured:
		have.Object["spec"] = want.(*unstructured.Unstructured).Object["spec"]
	default:
		reflect.ValueOf(have).Elem().FieldByName("Spec").Set(reflect.ValueOf(want).Elem().FieldByName("Spec"))
	}
}

func run() error {
	workers := flag.Int("workers", 16, "how many tenants at once")
	children := flag.String("children", "", "file with the children of a tenant, one JSON object a line")
	flag.Parse()
	text, err := os.ReadFile(*children)
	if err != nil {
		return err
	}
	ctrl.SetLogger(zap.New())
	config := ctrl.GetConfigOrDie()
	config.QPS = -1 // none
	manager, err := ctrl.NewManager(config, ctrl.Options{Metrics: metricsserver.Options{BindAddress: "0"},
		Client: client.Options{Cache: &client.CacheOptions{Unstructured: true}}})
	if err != nil {
		return err
	}
	r := &reconciler{Client: manager.GetClient(), children: strings.Split(strings.TrimSpace(string(text)), "\n")}
	build := ctrl.NewControllerManagedBy(manager).Named("tenant").For(newTenant()).
		WithOptions(controller.Options{MaxConcurrentReconciles: *workers}).
		Owns(&corev1.Namespace{}).Owns(&corev1.ServiceAccount{}).Owns(&corev1.ResourceQuota{}).Owns(&corev1.LimitRange{}).
		Owns(&networkingv1.NetworkPolicy{}).Owns(&rbacv1.RoleBinding{}).Owns(&appsv1.Deployment{}).Owns(&batchv1.CronJob{})
	for _, kind := range []string{"CustomerNamespace", "Scheduler"} {
		custom := &unstructured.Unstructured{}
		custom.SetGroupVersionKind(schema.GroupVersionKind{Group: "internal.example.com", Version: "v1", Kind: kind})
		build = build.Owns(custom)
	}
	if err := build.Complete(r); err != nil {
		return err
	}
	return manager.Start(ctrl.SetupSignalHandler())
}

func main() {
	if err := run(); err != nil {
		ctrl.Log.Error(err, "the parent stopped")
		os.Exit(1)
	}
}
