# The commands of a newcomer and of CI. `make help` lists them.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# The demo: where it goes, how much it draws and how long it trains. Small networks, so that two
# cores do it in minutes; the paper's sizes are the defaults of the scripts. Stage 3 goes on in the
# run of stage 2, so its steps count from there.
DEMO := demo
DEMO_SEED := 0
DEMO_SAMPLE := --train-images 600 --val-images 200
DEMO_VAL_SIZE := 100
DEMO_STAGE1_STEPS := 300
DEMO_STAGE2_STEPS := 1600
DEMO_STAGE3_STEPS := 1800
DEMO_GENERATOR_STEPS := 150
DEMO_NETWORK := pretrained_e_model=shallow,pretrained_weights=none,image_size=48
DEMO_SCENE_NETWORK := gconv_num_layers=2,gconv_hidden_dim=256,g_enc_n_layers=2,mask_width=32,layout_d_arch=verysmall
DEMO_GENERATOR := generator_width=6,spade_hidden=24,discriminator_width=16

.PHONY: help install demo search test fuzz faults lint bench clean
help:
	@echo "make install   a virtual environment in $(VENV) with the pinned requirements"
	@echo "make demo      the whole job on a small drawn world: prepare, train, search, synthesise"
	@echo "make search    draw in the browser and search the demo's photographs"
	@echo "make test      all tests"
	@echo "make fuzz      readers, parsers and servers before many more drawn inputs, for long"
	@echo "make faults    kills, full disks and damage, and docs/reliability.md of what came of them"
	@echo "make lint      style and static checks"
	@echo "make bench     speed and memory, with ratios to naive versions"

install: $(STAMP)
$(STAMP): requirements.txt tests/requirements.txt
	@python=""; \
	for candidate in python3.11 python3.10 python3 python; do \
	    if $$candidate -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 12))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Scene Designer needs Python 3.10 or 3.11 (TensorFlow 2.15 has no wheels for others); none was found on PATH. Install one, e.g. 'apt-get install python3.11 python3.11-venv', and run make again." >&2; \
	    exit 1; \
	fi; \
	echo "installing into $(VENV) with $$python"; \
	$$python -m venv $(VENV) && \
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	@touch $@

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# A module's tests stay together: they share what its fixtures make.
test: $(STAMP)
	$(PY) -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

fuzz: $(STAMP)
	HYPOTHESIS_PROFILE=long $(PY) -m pytest tests/fuzz

faults: $(STAMP)
	$(PY) -m tests.faults --folder faults --write docs/reliability.md

bench: $(STAMP)
	$(PY) -m tests.benchmarks

clean:
	rm -rf $(VENV) demo bench faults

# Every command can be run again: preparation keeps what is complete, training resumes.
demo: $(STAMP)
	$(PY) -m prep_data.sample --target-dir $(DEMO)/sample $(DEMO_SAMPLE)
	$(PY) -m prep_data.quickdraw_to_tfrecord --dataset-dir $(DEMO)/sample/quickdraw \
	    --target-dir $(DEMO)/quickdraw-tf
	$(PY) -m prep_data.index_quickdrawtf --dataset-dir $(DEMO)/sample/quickdraw \
	    --target-dir $(DEMO)/quickdraw-indexed
	$(PY) -m prep_data.coco_to_tfrecord --dataset-dir $(DEMO)/sample/coco-stuff \
	    --target-dir $(DEMO)/coco-graphs --val-size $(DEMO_VAL_SIZE)
	$(PY) -m prep_data.cococrops_to_tfrecord --dataset-dir $(DEMO)/sample/coco-stuff \
	    --target-dir $(DEMO)/coco-crops --val-size $(DEMO_VAL_SIZE)
	$(PY) -m prep_data.sketchycoco_to_tfrecord --dataset-dir $(DEMO)/sample/coco-stuff \
	    --sketchycoco-dir $(DEMO)/sample/sketchycoco --target-dir $(DEMO)/sketchycoco-tf
	$(PY) train.py multidomain-representation --data-loader quickdraw-cococrops-tf \
	    -o $(DEMO)/runs --id 01 --resume latest --hparams learning_rate=1e-3,$(DEMO_NETWORK) \
	    --base-hparams batch_size=32,iterations=$(DEMO_STAGE1_STEPS),log_every=10,notify_every=50,seed=$(DEMO_SEED),slack_config=,goal="Objects" \
	    --data-hparams qdraw_dir=$(DEMO)/quickdraw-tf,crops_dir=$(DEMO)/coco-crops
	$(PY) train.py graph-attention --data-loader coco-tfrecord \
	    -o $(DEMO)/runs --id SD01 --resume latest \
	    --hparams learning_rate=5e-4,pt_mdomain_id=01,$(DEMO_NETWORK),$(DEMO_SCENE_NETWORK) \
	    --base-hparams batch_size=8,iterations=$(DEMO_STAGE2_STEPS),log_every=20,notify_every=400,safety_save=400,save_every=$(DEMO_STAGE2_STEPS),seed=$(DEMO_SEED),slack_config=,goal="Scenes" \
	    --data-hparams coco_dir=$(DEMO)/coco-graphs,crops_dir=$(DEMO)/coco-crops,qdraw_dir=$(DEMO)/quickdraw-indexed
	$(PY) evaluate-metrics.py graph-attention -o $(DEMO)/runs --id SD01 --data-loader coco-tfrecord
	$(PY) evaluate-metrics.py graph-attention -o $(DEMO)/runs --id SD01 --data-loader sketchycoco-sl \
	    --data-hparams sl_dir=$(DEMO)/sample/sketchycoco-sl,crops_dir=$(DEMO)/coco-crops \
	    --metrics sbir-mAP-test sbir-top1-test sbir-top5-test sbir-on-valid-test
	$(PY) train.py graph-attention --data-loader sketchycoco-tf \
	    -o $(DEMO)/runs --id SD01 --resume latest \
	    --base-hparams iterations=$(DEMO_STAGE3_STEPS) \
	    --data-hparams sketchycoco_dir=$(DEMO)/sketchycoco-tf,crops_dir=$(DEMO)/coco-crops
	$(PY) evaluate-metrics.py graph-attention -o $(DEMO)/runs --id SD01 --data-loader sketchycoco-tf \
	    --metrics sbir-mAP-test sbir-top1-test sbir-top5-test obj-sbir-top10-test mask-iou-test \
	    generated-masks-test
	$(PY) run-experiment.py extract-features --model-name graph-attention --model-id SD01 \
	    --data-loader coco-tfrecord -o $(DEMO)/runs --id demo \
	    --exp-hparams results=$(DEMO)/features,save_images=True
	$(PY) run-experiment.py sbir-on-features-file -o $(DEMO)/runs --id demo \
	    --exp-hparams results=$(DEMO)/search,featsfile=$(DEMO)/features/SD01_coco_tfrecord_test_feats.npz,save_images=True
	$(PY) train.py spade --data-loader coco-tfrecord \
	    -o $(DEMO)/runs --id 01 --resume latest --hparams learning_rate=1e-3,$(DEMO_GENERATOR) \
	    --base-hparams batch_size=4,iterations=$(DEMO_GENERATOR_STEPS),log_every=10,notify_every=$(DEMO_GENERATOR_STEPS),seed=$(DEMO_SEED),slack_config=,goal="Photographs from layouts" \
	    --data-hparams coco_dir=$(DEMO)/coco-graphs,crops_dir=$(DEMO)/coco-crops,qdraw_dir=$(DEMO)/quickdraw-indexed
	$(PY) -m SPADE.export $(DEMO)/runs/spade-01 $(DEMO)/generator.npz
	$(PY) run-experiment.py generate-images --model-name graph-attention --model-id SD01 \
	    --data-loader coco-tfrecord -o $(DEMO)/runs --id images \
	    --exp-hparams results=$(DEMO)/images,generator=$(DEMO)/generator.npz,scenes=16,flipped_sketches=True,generate_from_gt=True
	$(PY) run-experiment.py report -o $(DEMO)/runs --id demo --exp-hparams results=$(DEMO)
	$(PY) -m search.build $(DEMO)/runs/graph-attention-SD01 $(DEMO)/sample/coco-stuff/images/val2017 \
	    $(DEMO)/index --boxes $(DEMO)/sample/coco-stuff/annotations/instances_val2017.json
	@echo
	@echo "All of it on one page: $(DEMO)/report.html. What counts is recall with sketches=real"
	@echo "against sketches=blank under boxes=jittered, and boxes=own of scenes drawn from memory."
	@echo "To search its photographs with your own drawing: make search"

search: $(STAMP)
	$(PY) -m search.serve --index $(DEMO)/index --generator $(DEMO)/generator.npz
