"""The Phoenix two-tower retrieval model in JAX and Haiku, as published."""

from phoenix_model.candidate_tower import CandidateTower as CandidateTower
from phoenix_model.config import HashConfig as HashConfig
from phoenix_model.config import PhoenixRetrievalModelConfig as PhoenixRetrievalModelConfig
from phoenix_model.config import TransformerConfig as TransformerConfig
from phoenix_model.config import is_positive_float32 as is_positive_float32
from phoenix_model.hashing import HashFunctions as HashFunctions
from phoenix_model.hashing import hash_ids as hash_ids
from phoenix_model.inputs import RecsysBatch as RecsysBatch
from phoenix_model.inputs import RecsysEmbeddings as RecsysEmbeddings
from phoenix_model.params import flatten_params as flatten_params
from phoenix_model.params import init_params as init_params
from phoenix_model.params import parameter_shapes as parameter_shapes
from phoenix_model.params import unflatten_params as unflatten_params
from phoenix_model.programs import CandidateTowerFn as CandidateTowerFn
from phoenix_model.programs import UserTowerFn as UserTowerFn
from phoenix_model.programs import candidate_tower as candidate_tower
from phoenix_model.programs import encode_candidates as encode_candidates
from phoenix_model.programs import user_tower as user_tower
from phoenix_model.retrieval import NO_RESULT as NO_RESULT
from phoenix_model.retrieval import PhoenixRetrievalModel as PhoenixRetrievalModel
from phoenix_model.retrieval import RetrievalOutput as RetrievalOutput
from phoenix_model.retrieval import build_model as build_model
from phoenix_model.retrieval import retrieve_top_k as retrieve_top_k
from phoenix_model.transformer import Transformer as Transformer
